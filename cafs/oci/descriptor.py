"""Descriptors (OCI image-spec, descriptor.md) and platforms: how one document points at another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cafs.core.digest import Digest, sha256_digest
from cafs.core.source import BlobRef
from cafs.errors import UsageError
from cafs.oci.fields import Fields
from cafs.oci.media_types import OCI_EMPTY

_PLATFORM = re.compile(r"[a-z0-9_]{1,32}/[a-z0-9_]{1,32}(?:/[A-Za-z0-9_.]{1,32})?")
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}
"""What a missing variant means: containerd/platforms, defaults of arm."""


class Platform(NamedTuple):
    """What an image runs on."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")

    def serves(self, wanted: Platform) -> bool:
        """Whether an image of this platform is one of the ``wanted`` platform."""
        default = _DEFAULT_VARIANTS.get(wanted.architecture)
        same_kind = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same_kind and (self.variant or default) == (wanted.variant or self.variant or default)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob or a manifest: its exact bytes by digest and size, and what they are."""

    digest: Digest
    size: int
    media_type: str
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None

    @property
    def blob(self) -> BlobRef:
        """The same pointer without its meaning."""
        return BlobRef(self.digest, self.size)


AnyBlob = Descriptor | BlobRef
"""What repositories take where only digest and size matter."""

EMPTY_JSON = b"{}"
EMPTY_CONFIG = Descriptor(sha256_digest(EMPTY_JSON), len(EMPTY_JSON), OCI_EMPTY)
"""The config of an artifact that has none (OCI manifest.md, "Guidance for an Empty Descriptor")."""


def parse_platform(text: str) -> Platform:
    """Read ``OS/ARCHITECTURE[/VARIANT]``.

    Raises:
        UsageError: it has another form.
    """
    if not _PLATFORM.fullmatch(text):
        raise UsageError(
            f"not a platform: {text[:80]!r} (expected OS/ARCHITECTURE[/VARIANT], as linux/amd64)"
        )
    return Platform(*text.split("/"))


def parse_descriptor(fields: Fields) -> Descriptor:
    """Read one descriptor.

    Raises:
        IntegrityError: a field is missing or of the wrong type.
    """
    platform = fields.optional_object("platform")
    return Descriptor(
        fields.digest("digest"),
        fields.size("size"),
        fields.text("mediaType"),
        fields.optional_text("artifactType"),
        fields.text_map("annotations"),
        platform_of(platform) if platform else None,
    )


def platform_of(fields: Fields) -> Platform | None:
    """The platform that an index entry or a config names; None where it names none."""
    os, architecture = fields.optional_text("os"), fields.optional_text("architecture")
    return Platform(os, architecture, fields.optional_text("variant")) if os and architecture else None


def encode_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON object of a descriptor; keys in the order in which OCI's documents have them."""
    value: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        value["annotations"] = dict(sorted(descriptor.annotations.items()))
    if descriptor.artifact_type:
        value["artifactType"] = descriptor.artifact_type
    if (platform := descriptor.platform) is not None:
        value["platform"] = {"architecture": platform.architecture, "os": platform.os}
        if platform.variant:
            value["platform"]["variant"] = platform.variant
    return value
