"""The index artifact: the manifest that carries an image's layer indexes and chunk blobs (docs/formats.md).

Building and parsing are pure; ``find_artifact`` and ``publish_artifact`` do what little I/O there is.

Which artifact is believed, when an image has several: those the caller's policy accepts, and of these the
one of the highest generation; of two with the same generation (two conversions at once) the one whose
digest is smaller. One that is damaged or does not fit its image is passed over with a warning.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cafs.core.digest import Digest, parse_digest, sha256_digest
from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.oci import annotations as keys
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, Descriptor, encode_descriptor
from cafs.oci.image import Image, Manifest, load_manifest
from cafs.oci.media_types import IMAGE_ARTIFACT, LAYER_CHUNKS, LAYER_INDEX, OCI_MANIFEST
from cafs.oci.repository import Repository

MAX_INDEX_BYTES = 4 << 30
"""No layer index is larger: about 25 million files, or a terabyte of data in small chunks."""
_MAX_CANDIDATES = 16
_MAX_NUMBER = 18
"""Digits of a number in an annotation."""
_HIGHEST_GENERATION = 10**_MAX_NUMBER - 1

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class IndexArtifact:
    """One conversion of one image."""

    subject: Descriptor | None
    """The image's manifest; None for what was made from a directory or a tar."""
    layers: tuple[ArtifactLayer, ...]
    dictionary: tuple[Descriptor, ...] = ()
    """Chunk blobs of other images that the chunk tables refer to."""
    generation: int = 1


Accept = Callable[[Descriptor, IndexArtifact], bool]
"""A policy: whether to believe an artifact."""


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
    value["annotations"] = {keys.GENERATION: str(artifact.generation)}
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
    generation = _number(manifest.annotations.get(keys.GENERATION, "1"), what, keys.GENERATION)
    return IndexArtifact(manifest.subject, tuple(layers), tuple(dictionary), generation)


def _parse_layer(blob: Descriptor, where: str) -> ArtifactLayer:
    size = _number(blob.annotations.get(keys.INDEX_SIZE, ""), where, keys.INDEX_SIZE)
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


def _number(text: str, where: str, key: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_NUMBER):
        raise IntegrityError(f"{where}: annotation {key} is not a number: {text[:40]!r}")
    return int(text)


def check_fits(artifact: IndexArtifact, image: Image, what: str) -> None:
    """The artifact must be of this very image, with an index for each of its layers in order.

    Raises:
        IntegrityError: it is not.
    """
    if artifact.subject is None or artifact.subject.digest != image.descriptor.digest:
        raise IntegrityError(f"{what} belongs to another image")
    wanted = [
        layer.digest
        for layer in image.manifest.layers
        if image.manifest.is_image or layer.annotations.get(keys.TITLE)
    ]
    if [layer.layer_digest for layer in artifact.layers] != wanted:
        raise IntegrityError(f"{what} does not cover the layers of its image")


def believe_all(descriptor: Descriptor, artifact: IndexArtifact) -> bool:
    """The policy of `cafs mount`: whoever may push to the repository is believed."""
    return True


async def find_artifact(
    repository: Repository, image: Image, accept: Accept = believe_all
) -> tuple[Descriptor, IndexArtifact]:
    """The index artifact of ``image``: see the module's docstring for which one.

    Raises:
        NotFoundError: the image is not converted.
        IntegrityError: it is, but no artifact of it can be used.
    """
    if image.manifest.artifact_type == IMAGE_ARTIFACT:
        return image.descriptor, parse_artifact(image.manifest, f"artifact {image.descriptor.digest}")
    bound = [entry for entry in image.siblings if entry.artifact_type == IMAGE_ARTIFACT]
    attached = await repository.referrers(image.descriptor, IMAGE_ARTIFACT)
    reason: IntegrityError | None = None
    for candidates in (bound, attached):
        for descriptor in sorted(candidates, key=_preference)[:_MAX_CANDIDATES]:
            try:
                artifact = await _load(repository, descriptor, image)
            except (IntegrityError, NotFoundError) as e:
                reason = reason or IntegrityError(f"{repository.name}: no usable index artifact: {e}")
                if not _of_other_platform(e, candidates is bound):
                    log.warning("passing over an index artifact of %s: %s", repository.name, e)
                continue
            if accept(descriptor, artifact):
                return descriptor, artifact
    if reason is not None and attached:
        raise reason
    raise NotFoundError(
        f"{repository.name} ({image.descriptor.digest}) is not converted: run `cafs convert` on it"
    )


async def _load(repository: Repository, descriptor: Descriptor, image: Image) -> IndexArtifact:
    what = f"artifact {descriptor.digest} of {repository.name}"
    document = await load_manifest(repository, descriptor)
    if not isinstance(document, Manifest):
        raise IntegrityError(f"{what} is an image index")
    artifact = parse_artifact(document, what)
    check_fits(artifact, image, what)
    return artifact


def _of_other_platform(error: Exception, is_bound: bool) -> bool:
    """An index bound to several platforms holds the artifacts of all: nothing is wrong with the others."""
    return is_bound and "another image" in str(error)


def _preference(entry: Descriptor) -> tuple[int, str]:
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
) -> Descriptor:
    """Push the artifact of blobs that are there already, and make it the one that is found.

    Pushing the same again changes nothing; another conversion of the same image gets the next generation.

    Args:
        subject: The image; None: the artifact stands alone under ``tag``.
    """
    await repository.push_blob(EMPTY_JSON, EMPTY_CONFIG)
    artifact = IndexArtifact(subject, tuple(layers), tuple(dictionary))
    if subject is None:
        return await repository.push_manifest(encode_artifact(artifact), OCI_MANIFEST, tag)
    others = sorted(await repository.referrers(subject, IMAGE_ARTIFACT), key=_preference)
    if others:
        newest = -_preference(others[0])[0]
        same = encode_artifact(replace(artifact, generation=newest))
        if any(entry.digest == sha256_digest(same) for entry in others):
            return Descriptor(sha256_digest(same), len(same), OCI_MANIFEST, IMAGE_ARTIFACT)
        artifact = replace(artifact, generation=min(newest + 1, _HIGHEST_GENERATION))
    return await repository.attach(encode_artifact(artifact), OCI_MANIFEST, subject)
