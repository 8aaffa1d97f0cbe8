"""Finds the index artifact of an image, and believes none that the policy does not.

In this order: the one that the image's own manifest names; entries of the image index that led to the
image; referrers of the image. Of several the one of the highest generation; of two with the same
generation (two conversions at once) the one whose digest is smaller. One that is damaged, does not fit its
image or is not believed is passed over with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from cafs.core.digest import parse_digest, sha256_digest
from cafs.errors import CafsError, IntegrityError, NotFoundError, UntrustedError, UsageError
from cafs.oci import annotations as keys
from cafs.oci.artifact import (
    IndexArtifact,
    check_fits,
    encode_artifact,
    parse_artifact,
    parse_number,
    preference,
)
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Image, Manifest, load_manifest
from cafs.oci.media_types import IMAGE_ARTIFACT, OCI_MANIFEST
from cafs.oci.repository import Repository
from cafs.oci.trust import TrustPolicy, check_trust

_MAX_CANDIDATES = 16

log = logging.getLogger(__name__)


class FoundArtifact(NamedTuple):
    """An artifact that is believed."""

    descriptor: Descriptor
    artifact: IndexArtifact
    is_bound: bool
    """The image's own manifest names it."""


async def find_artifact(repository: Repository, image: Image, policy: TrustPolicy) -> FoundArtifact:
    """The index artifact of ``image``: see the module's docstring for which one.

    Raises:
        NotFoundError: the image is not converted.
        UntrustedError: it is, but the policy believes no artifact of it.
        IntegrityError: it is, but no artifact of it can be used.
    """
    policy.check_repository(repository.name)
    if image.manifest.artifact_type == IMAGE_ARTIFACT:
        artifact = parse_artifact(image.manifest, f"artifact {image.descriptor.digest}")
        await check_trust(policy, repository.name, artifact, is_bound=False)
        return FoundArtifact(image.descriptor, artifact, is_bound=False)
    lookup = _Lookup(repository, image, policy)
    siblings = [entry for entry in image.siblings if entry.artifact_type == IMAGE_ARTIFACT]
    found = await lookup.first(_named(image), is_bound=True) or await lookup.first(siblings)
    if found is None:  # only now is the registry asked for more than manifests
        found = await lookup.first(await repository.referrers(image.descriptor, IMAGE_ARTIFACT))
    if found is None:
        raise lookup.nothing()
    return found


class _Lookup:
    """One search; remembers why candidates were passed over."""

    def __init__(self, repository: Repository, image: Image, policy: TrustPolicy) -> None:
        self._repository = repository
        self._image = image
        self._policy = policy
        self._refused: list[CafsError] = []
        self._misses_named = False

    async def first(
        self, candidates: Sequence[Descriptor], *, is_bound: bool = False
    ) -> FoundArtifact | None:
        """The best of some candidates that can be used and is believed."""
        name = self._repository.name
        for descriptor in sorted(candidates, key=preference)[:_MAX_CANDIDATES]:
            try:
                artifact = await _load(self._repository, descriptor, self._image, is_bound=is_bound)
                await check_trust(self._policy, name, artifact, is_bound=is_bound)
            except _OtherPlatformError:
                continue
            except (IntegrityError, NotFoundError, UntrustedError) as e:
                self._refused.append(e)
                self._misses_named = self._misses_named or (is_bound and isinstance(e, NotFoundError))
                level = logging.INFO if isinstance(e, UntrustedError) else logging.WARNING
                log.log(level, "passing over index artifact %s of %s: %s", descriptor.digest, name, e)
            else:
                return FoundArtifact(descriptor, artifact, is_bound)
        return None

    def nothing(self) -> CafsError:
        """What to say when none was left: of an untrusted one before a damaged one, as it may be whole."""
        name = self._repository.name
        for error in self._refused:
            if isinstance(error, UntrustedError):
                return UntrustedError(f"{name}: no trusted index artifact: {error}")
        if self._misses_named:
            return NotFoundError(
                f"{name} ({self._image.descriptor.digest}) names an index artifact that is not here: copy the"
                " whole image with it, or run `cafs convert` on it"
            )
        if self._refused:
            return IntegrityError(f"{name}: no usable index artifact: {self._refused[0]}")
        return NotFoundError(
            f"{name} ({self._image.descriptor.digest}) is not converted: run `cafs convert` on it"
        )


def _named(image: Image) -> list[Descriptor]:
    """The artifact that the image's manifest names, if it does."""
    annotations = image.manifest.annotations
    if keys.BOUND_DIGEST not in annotations:
        return []
    where = f"manifest {image.descriptor.digest}"
    try:
        digest = parse_digest(annotations[keys.BOUND_DIGEST])
    except UsageError as e:
        raise IntegrityError(f"{where}: annotation {keys.BOUND_DIGEST} is {e}") from e
    size = parse_number(annotations.get(keys.BOUND_SIZE, ""), where, keys.BOUND_SIZE)
    return [Descriptor(digest, size, OCI_MANIFEST, IMAGE_ARTIFACT)]


async def _load(
    repository: Repository, descriptor: Descriptor, image: Image, *, is_bound: bool
) -> IndexArtifact:
    what = f"artifact {descriptor.digest} of {repository.name}"
    document = await load_manifest(repository, descriptor)
    if not isinstance(document, Manifest):
        raise IntegrityError(f"{what} is an image index")
    artifact = parse_artifact(document, what)
    if not is_bound and descriptor in image.siblings and _is_of_another(artifact, image):
        raise _OtherPlatformError
    check_fits(artifact, image, what, is_bound=is_bound)
    if artifact.signature is not None and sha256_digest(encode_artifact(artifact)) != descriptor.digest:
        # Fields that a signature does not cover could say anything.
        raise IntegrityError(f"{what} is signed, but written in another form than is signed")
    return artifact


def _is_of_another(artifact: IndexArtifact, image: Image) -> bool:
    return artifact.subject is None or artifact.subject.digest != image.descriptor.digest


class _OtherPlatformError(Exception):
    """An image index of several platforms holds the artifacts of all: nothing is wrong with the others."""
