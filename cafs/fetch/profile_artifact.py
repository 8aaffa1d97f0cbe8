"""Access profiles as referrers of images: attaching one, finding the newest.

Used by ``cafs profile``, ``cafs convert`` and ``cafs mount``. A profile may be attached again and again; the
newest by its ``org.opencontainers.image.created`` annotation counts. One that was derived from the image is
dated 1970, so that every recorded one counts more, and deriving it again gives the same artifact. A profile
only hints (see ``cafs.core.profile``), so anybody who may push may also attach one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from cafs.core.digest import Digest, sha256_digest
from cafs.core.profile import MAX_BYTES, Profile, encode_profile, parse_profile
from cafs.errors import IntegrityError, UsageError
from cafs.oci.artifact import parse_artifact
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, Descriptor, encode_descriptor
from cafs.oci.image import Image, Manifest, load_config, load_manifest
from cafs.oci.media_types import IMAGE_ARTIFACT, OCI_MANIFEST, PROFILE, PROFILE_ARTIFACT
from cafs.oci.repository import Repository, read_blob

CREATED = "org.opencontainers.image.created"
DERIVED = "dev.cafs.profile.derived"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def attach_profile(
    repository: Repository, image: Descriptor, profile: Profile, now: datetime = _EPOCH
) -> Descriptor:
    """Attach a profile to an image manifest in its repository; returns the artifact's descriptor.

    Args:
        repository: Theirs.
        image: The manifest.
        profile: Of this image.
        now: When it was recorded; without meaning for a derived one.

    Raises:
        UsageError: the profile is empty.
        RemoteError, StorageError: the repository did not take it.
    """
    if not profile.chunks:
        raise UsageError("the profile names no chunk: nothing was read while it was recorded")
    content = encode_profile(profile)
    layer = Descriptor(sha256_digest(content), len(content), PROFILE)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": PROFILE_ARTIFACT,
        "config": encode_descriptor(EMPTY_CONFIG),
        "layers": [encode_descriptor(layer)],
        "subject": encode_descriptor(Descriptor(image.digest, image.size, image.media_type)),
        "annotations": _annotations(profile, now),
    }
    await repository.push_blob(EMPTY_JSON, EMPTY_CONFIG)
    await repository.push_blob(content, layer)
    return await repository.attach(json.dumps(manifest, sort_keys=True).encode(), OCI_MANIFEST, image)


async def refuse_other_images(repository: Repository, image: Image, profile: Profile) -> None:
    """Nothing of a profile of another image would ever be fetched, and it would hide the image's own.

    One of an earlier version of the image, of which some layers are the same, is good.

    Raises:
        UsageError: none of the layers that it names a chunk of is a layer of the image.
        CafsError: what the image's layers are cannot be read.
    """
    named = {profile.layers[number] for number, _ in profile.chunks}
    if named and named.isdisjoint(await _layers_of(repository, image) or named):
        raise UsageError(f"the profile is of another image: none of its layers is in {repository.name}")


async def _layers_of(repository: Repository, image: Image) -> set[Digest]:
    """The diffIDs; none where neither a config nor the manifest itself says them."""
    if image.manifest.is_image:
        return set((await load_config(repository, image.manifest)).diff_ids)
    if image.manifest.artifact_type == IMAGE_ARTIFACT:
        layers = parse_artifact(image.manifest, f"artifact {image.descriptor.digest}").layers
        return {layer.diff_id for layer in layers}
    return set()


def _annotations(profile: Profile, now: datetime) -> dict[str, str]:
    if profile.is_derived:
        return {CREATED: _EPOCH.isoformat(timespec="microseconds"), DERIVED: "true"}
    return {CREATED: now.isoformat(timespec="microseconds")}


async def find_profile(repository: Repository, image: Descriptor) -> Profile | None:
    """The newest profile attached to an image manifest, if there is one.

    Raises:
        IntegrityError: what is attached is not a profile.
    """
    listed = await repository.referrers(image, PROFILE_ARTIFACT)
    if not listed:
        return None
    dated = [(await _created(repository, entry), number) for number, entry in enumerate(listed)]
    newest = listed[max(dated)[1]]
    manifest = await load_manifest(repository, newest)
    if not isinstance(manifest, Manifest) or len(manifest.layers) != 1:
        raise IntegrityError(f"{repository.name}: {newest.digest} is no access profile")
    profile = parse_profile(await read_blob(repository, manifest.layers[0], MAX_BYTES))
    return replace(profile, is_derived=DERIVED in manifest.annotations)


async def _created(repository: Repository, entry: Descriptor) -> str:
    """Lists repeat the annotations of what they name (OCI distribution-spec v1.1, "Listing Referrers"), or
    should."""
    if CREATED in entry.annotations:
        return entry.annotations[CREATED]
    document = await load_manifest(repository, entry)
    return document.annotations.get(CREATED, "") if isinstance(document, Manifest) else ""
