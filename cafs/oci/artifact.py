"""The index artifact: the manifest that carries an image's layer indexes and chunk blobs (docs/formats.md).

Building and parsing are pure; ``publish_artifact`` does what little I/O there is. How one is found:
``cafs.oci.artifact_lookup``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cafs.core.digest import Digest, parse_digest, sha256_digest
from cafs.errors import IntegrityError, UsageError
from cafs.oci import annotations as keys
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, Descriptor, encode_descriptor
from cafs.oci.image import Image, Manifest
from cafs.oci.media_types import IMAGE_ARTIFACT, LAYER_CHUNKS, LAYER_INDEX, OCI_MANIFEST
from cafs.oci.repository import Repository

if TYPE_CHECKING:  # loaded where there is a signature: a mount must not wait for it
    from cafs.oci.signature import Signature, SigningKey

MAX_INDEX_BYTES = 4 << 30
"""No layer index is larger: about 25 million files, or a terabyte of data in small chunks."""
_MAX_NUMBER = 18
"""Digits of a number in an annotation."""
_HIGHEST_GENERATION = 10**_MAX_NUMBER - 1


@dataclass(frozen=True, slots=True)
class ArtifactLayer:
    """What the artifact holds for one layer of the image."""

    layer_digest: Digest
    diff_id: Digest
    index: Descriptor
    """The layer index as it is stored: one zstd frame."""
    index_digest: Digest
    """Of the index file itself."""
    index_size: int
    options: str
    parent_chain_id: Digest | None = None
    chunks: Descriptor | None = None
    """The layer's own chunk blob; None when all its chunks lie in other blobs, or it has none."""


class IndexArtifact(NamedTuple):
    """One conversion of one image."""

    subject: Descriptor | None
    """The image's manifest; None for what was made from a directory or a tar."""
    layers: tuple[ArtifactLayer, ...]
    dictionary: tuple[Descriptor, ...] = ()
    """Chunk blobs of other images that the chunk tables refer to."""
    generation: int = 1
    signature: Signature | None = None


def encode_artifact(artifact: IndexArtifact) -> bytes:
    """The artifact's manifest; the same bytes for the same artifact."""
    blobs: list[Descriptor] = []
    for layer in artifact.layers:
        common = {keys.LAYER_DIGEST: str(layer.layer_digest), keys.LAYER_DIFF_ID: str(layer.diff_id)}
        index = {
            **common,
            keys.INDEX_DIGEST: str(layer.index_digest),
            keys.INDEX_SIZE: str(layer.index_size),
            keys.OPTIONS: layer.options,
        }
        if layer.parent_chain_id:
            index[keys.PARENT_CHAIN_ID] = layer.parent_chain_id
        blobs.append(Descriptor(layer.index.digest, layer.index.size, LAYER_INDEX, annotations=index))
        if layer.chunks:
            blobs.append(Descriptor(layer.chunks.digest, layer.chunks.size, LAYER_CHUNKS, annotations=common))
    for blob in artifact.dictionary:
        mark = {keys.DICTIONARY: "true"}
        blobs.append(Descriptor(blob.digest, blob.size, LAYER_CHUNKS, annotations=mark))
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": IMAGE_ARTIFACT,
        "config": encode_descriptor(EMPTY_CONFIG),
        "layers": [encode_descriptor(blob) for blob in blobs],
    }
    if (subject := artifact.subject) is not None:
        value["subject"] = encode_descriptor(Descriptor(subject.digest, subject.size, subject.media_type))
    annotations = {keys.GENERATION: str(artifact.generation)}
    if (signature := artifact.signature) is not None:
        from cafs.oci.signature import encode_value  # noqa: PLC0415 - see above

        annotations |= {keys.SIGNATURE: encode_value(signature), keys.SIGNATURE_KEY: str(signature.key)}
    value["annotations"] = annotations
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def parse_artifact(manifest: Manifest, what: str) -> IndexArtifact:
    """Read an artifact's manifest.

    Raises:
        IntegrityError: it is no index artifact, or one of its blobs is not described as it must be.
    """
    if manifest.artifact_type != IMAGE_ARTIFACT:
        raise IntegrityError(f"{what} is not a CAFS index artifact but {manifest.artifact_type!r}")
    layers: list[ArtifactLayer] = []
    dictionary: list[Descriptor] = []
    for number, blob in enumerate(manifest.layers):
        where = f"{what}: layers[{number}]"
        if blob.media_type == LAYER_INDEX:
            layers.append(_parse_layer(blob, where))
        elif blob.media_type != LAYER_CHUNKS:
            raise IntegrityError(f"{where} is of an unknown kind: {blob.media_type!r}")
        elif blob.annotations.get(keys.DICTIONARY) == "true":
            dictionary.append(blob)
        elif layers and layers[-1].chunks is None and _layer_digest(blob, where) == layers[-1].layer_digest:
            layers[-1] = replace(layers[-1], chunks=blob)
        else:
            raise IntegrityError(f"{where} is a chunk blob that does not follow its layer's index")
    generation = parse_number(manifest.annotations.get(keys.GENERATION, "1"), what, keys.GENERATION)
    signature = _parse_signature(manifest.annotations, what)
    return IndexArtifact(manifest.subject, tuple(layers), tuple(dictionary), generation, signature)


def _parse_signature(annotations: Mapping[str, str], what: str) -> Signature | None:
    if keys.SIGNATURE not in annotations and keys.SIGNATURE_KEY not in annotations:
        return None
    from cafs.oci.signature import parse_signature  # noqa: PLC0415 - see above

    try:
        return parse_signature(annotations.get(keys.SIGNATURE_KEY, ""), annotations.get(keys.SIGNATURE, ""))
    except UsageError as e:
        raise IntegrityError(f"{what}: annotation {keys.SIGNATURE}: {e}") from e


def _parse_layer(blob: Descriptor, where: str) -> ArtifactLayer:
    size = parse_number(blob.annotations.get(keys.INDEX_SIZE, ""), where, keys.INDEX_SIZE)
    if max(size, blob.size) > MAX_INDEX_BYTES:
        raise IntegrityError(
            f"{where}: a layer index of {size} bytes is more than the {MAX_INDEX_BYTES} allowed"
        )
    parent = blob.annotations.get(keys.PARENT_CHAIN_ID)
    return ArtifactLayer(
        _layer_digest(blob, where),
        _digest(blob, keys.LAYER_DIFF_ID, where),
        blob,
        _digest(blob, keys.INDEX_DIGEST, where),
        size,
        blob.annotations.get(keys.OPTIONS, ""),
        _digest(blob, keys.PARENT_CHAIN_ID, where) if parent else None,
    )


def _layer_digest(blob: Descriptor, where: str) -> Digest:
    return _digest(blob, keys.LAYER_DIGEST, where)


def _digest(blob: Descriptor, key: str, where: str) -> Digest:
    try:
        return parse_digest(blob.annotations.get(key, ""))
    except UsageError as e:
        raise IntegrityError(f"{where}: annotation {key} is {e}") from e


def parse_number(text: str, where: str, key: str) -> int:
    """A number in an annotation.

    Raises:
        IntegrityError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_NUMBER):
        raise IntegrityError(f"{where}: annotation {key} is not a number: {text[:40]!r}")
    return int(text)


def check_fits(artifact: IndexArtifact, image: Image, what: str, *, is_bound: bool = False) -> None:
    """The artifact must be of this very image, with an index for each of its layers in order.

    Args:
        is_bound: The image's manifest names the artifact, which was there before it: it cannot have the
            image for its subject.

    Raises:
        IntegrityError: it is not.
    """
    if not is_bound and (artifact.subject is None or artifact.subject.digest != image.descriptor.digest):
        raise IntegrityError(f"{what} belongs to another image")
    wanted = [
        layer.digest
        for layer in image.manifest.layers
        if image.manifest.is_image or layer.annotations.get(keys.TITLE)
    ]
    if [layer.layer_digest for layer in artifact.layers] != wanted:
        raise IntegrityError(f"{what} does not cover the layers of its image")


def preference(entry: Descriptor) -> tuple[int, str]:
    """Sorts artifacts by which is believed first."""
    text = entry.annotations.get(keys.GENERATION, "1")
    known = text.isascii() and text.isdecimal() and len(text) <= _MAX_NUMBER
    return (-int(text) if known else 0, entry.digest)


async def publish_artifact(
    repository: Repository,
    subject: Descriptor | None,
    layers: Sequence[ArtifactLayer],
    dictionary: Sequence[Descriptor] = (),
    *,
    tag: str | None = None,
    key: SigningKey | None = None,
    attach: bool = True,
) -> Descriptor:
    """Push the artifact of blobs that are there already, and make it the one that is found.

    Pushing the same again changes nothing; another conversion of the same image gets the next generation.

    Args:
        subject: The image; None: the artifact stands alone under ``tag``.
        key: Signs it.
        attach: False: it is not to be found as a referrer; somebody will name it by its digest.
    """
    await repository.push_blob(EMPTY_JSON, EMPTY_CONFIG)
    artifact = IndexArtifact(subject, tuple(layers), tuple(dictionary))
    if subject is None or not attach:
        pushed = await repository.push_manifest(_encode_signed(artifact, key), OCI_MANIFEST, tag)
        return replace(pushed, artifact_type=IMAGE_ARTIFACT)
    others = sorted(await repository.referrers(subject, IMAGE_ARTIFACT), key=preference)
    if others:
        newest = -preference(others[0])[0]
        same = _encode_signed(artifact._replace(generation=newest), key)
        if any(entry.digest == sha256_digest(same) for entry in others):
            return Descriptor(sha256_digest(same), len(same), OCI_MANIFEST, IMAGE_ARTIFACT)
        artifact = artifact._replace(generation=min(newest + 1, _HIGHEST_GENERATION))
    return await repository.attach(_encode_signed(artifact, key), OCI_MANIFEST, subject)


def _encode_signed(artifact: IndexArtifact, key: SigningKey | None) -> bytes:
    return encode_artifact(artifact._replace(signature=key.sign(artifact)) if key else artifact)
