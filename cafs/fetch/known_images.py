"""What images in registries turned out to be, kept on the local disk: ``CACHE/image/HEX.json``.

Lets ``open_image`` open a pinned image without asking anybody, and any image while its registry cannot be
reached. One file for each repository, tag or digest, and platform. It only saves questions: the artifact's
manifest is verified against its digest when it is read back, and a file that makes no sense is no file.
What is remembered was believed once; whether it still is, ``open_image`` asks the policy of now.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import NamedTuple

from cafs.core.digest import sha256_digest
from cafs.errors import IntegrityError, StorageError
from cafs.oci.artifact import IndexArtifact, encode_artifact, parse_artifact
from cafs.oci.descriptor import Descriptor, encode_descriptor, parse_descriptor
from cafs.oci.durable import replace_file
from cafs.oci.fields import parse_json_object
from cafs.oci.image import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from cafs.oci.media_types import OCI_MANIFEST

log = logging.getLogger(__name__)


class KnownImage(NamedTuple):
    """An image and the index artifact that was believed for it."""

    image: Descriptor
    artifact: IndexArtifact
    is_bound: bool = False
    """The image's own manifest names the artifact."""


class KnownImages:
    """A directory of such files. Synchronous."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, repository: str, selector: str, platform: str) -> Path:
        key = json.dumps([repository, selector, platform])
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def recall(self, repository: str, selector: str, platform: str) -> KnownImage | None:
        """What was remembered; None when nothing was, or it cannot be read."""
        path = self._path(repository, selector, platform)
        try:
            with path.open("rb") as file:
                content = file.read(2 * MAX_MANIFEST_BYTES + 1)
        except OSError:
            return None
        try:
            fields = parse_json_object(content, str(path), 2 * MAX_MANIFEST_BYTES)
            manifest = fields.long_text("artifact", 2 * MAX_MANIFEST_BYTES).encode()
            if sha256_digest(manifest) != fields.digest("artifactDigest"):
                raise fields.wrong("artifact", "does not match its digest")
            document = parse_manifest(manifest, OCI_MANIFEST, str(path))
            if not isinstance(document, Manifest):
                raise fields.wrong("artifact", "is an index")
            image = parse_descriptor(fields.object("image"))
            return KnownImage(image, parse_artifact(document, str(path)), "bound" in fields)
        except IntegrityError as e:
            log.info("forgetting what was known of %s: %s", repository, e)
            return None

    def forget(self, repository: str, selector: str, platform: str) -> None:
        """What was remembered is no longer so."""
        self._path(repository, selector, platform).unlink(missing_ok=True)

    def remember(self, repository: str, selector: str, platform: str, known: KnownImage) -> None:
        """Keep it for ``recall``.

        Raises:
            StorageError: the cache cannot be written.
        """
        manifest = encode_artifact(known.artifact)
        value = {
            "repository": repository,
            "selector": selector,
            "platform": platform,
            "image": encode_descriptor(known.image),
            "bound": True if known.is_bound else None,
            "artifactDigest": sha256_digest(manifest),
            "artifact": manifest.decode(),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._path(repository, selector, platform), json.dumps(value).encode())
        except OSError as e:
            raise StorageError(f"cannot write into {self._folder}: {e.strerror}") from e
