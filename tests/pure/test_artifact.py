"""The index artifact's manifest: what is written is read, what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.digest import Digest
from cafs.errors import IntegrityError
from cafs.oci.artifact import ArtifactLayer, IndexArtifact, check_fits, encode_artifact, parse_artifact
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Image, Manifest, parse_manifest
from cafs.oci.media_types import LAYER_CHUNKS, LAYER_INDEX, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

DIGESTS = st.integers(0, (1 << 256) - 1).map(lambda i: Digest(f"sha256:{i:064x}"))
SIZES = st.integers(0, 1 << 31)
LAYERS = st.builds(
    ArtifactLayer,
    DIGESTS,
    DIGESTS,
    st.builds(Descriptor, DIGESTS, SIZES, st.just(LAYER_INDEX)),
    DIGESTS,
    SIZES,
    st.text(max_size=10),
    st.none() | DIGESTS,
    st.none() | st.builds(Descriptor, DIGESTS, SIZES, st.just(LAYER_CHUNKS)),
)
ARTIFACTS = st.builds(
    IndexArtifact,
    st.none() | st.builds(Descriptor, DIGESTS, SIZES, st.just(OCI_MANIFEST)),
    st.lists(LAYERS, max_size=4).map(tuple),
    st.lists(st.builds(Descriptor, DIGESTS, SIZES, st.just(LAYER_CHUNKS)), max_size=2).map(tuple),
    st.integers(0, 10**18 - 1),
)


def parsed(content: bytes) -> IndexArtifact:
    manifest = parse_manifest(content, OCI_MANIFEST, "artifact X")
    assert isinstance(manifest, Manifest)
    return parse_artifact(manifest, "artifact X")


@given(ARTIFACTS)
def test_an_artifact_comes_back_as_written(artifact: IndexArtifact) -> None:
    content = encode_artifact(artifact)
    found = parsed(content)
    assert encode_artifact(found) == content
    assert found.generation == artifact.generation
    assert [layer.index_digest for layer in found.layers] == [layer.index_digest for layer in artifact.layers]
    assert [layer.options for layer in found.layers] == [layer.options for layer in artifact.layers]
    for layer, written in zip(found.layers, artifact.layers, strict=True):
        assert (layer.chunks is None) == (written.chunks is None)
        assert layer.parent_chain_id == written.parent_chain_id
    assert [d.digest for d in found.dictionary] == [d.digest for d in artifact.dictionary]


def number(i: int) -> Digest:
    return Digest(f"sha256:{i:064x}")


LAYER = ArtifactLayer(
    number(1), number(2), Descriptor(number(3), 10, LAYER_INDEX), number(4), 100, "o",
    chunks=Descriptor(number(5), 10, LAYER_CHUNKS),
)  # fmt: skip
SUBJECT = Descriptor(number(9), 5, OCI_MANIFEST)


def broken(change: Callable[[Any], object]) -> bytes:
    value = json.loads(encode_artifact(IndexArtifact(SUBJECT, (LAYER,))))
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(artifactType="x"), "not a CAFS index artifact"),
        (lambda v: v.pop("artifactType"), "not a CAFS index artifact"),
        (lambda v: v["layers"].reverse(), r"layers\[0\] is a chunk blob that does not follow"),
        (lambda v: v["layers"].append(v["layers"][1]), r"layers\[2\] is a chunk blob that does not follow"),
        (lambda v: v["layers"][0].update(mediaType="x/y"), r"layers\[0\] is of an unknown kind: 'x/y'"),
        (lambda v: v["layers"][0].pop("annotations"), r"layers\[0\]: annotation dev.cafs.index.size is not"),
        (lambda v: v["layers"][0]["annotations"].update({"dev.cafs.index.size": "-1"}), "is not a number"),
        (
            lambda v: v["layers"][0]["annotations"].update({"dev.cafs.index.size": "9" * 40}),
            "is not a number",
        ),
        (lambda v: v["layers"][0]["annotations"].update({"dev.cafs.index.size": "9" * 18}), "more than the"),
        (lambda v: v["layers"][0].update(size=1 << 40), "more than the"),
        (lambda v: v["layers"][0]["annotations"].update({"dev.cafs.index.digest": "../x"}), "not a digest"),
        (lambda v: v["layers"][1]["annotations"].update({"dev.cafs.layer.digest": number(7)}), "not follow"),
        (lambda v: v["annotations"].update({"dev.cafs.generation": "²"}), "is not a number"),
    ],
)
def test_wrong_artifacts_are_named(change: Callable[[Any], object], says: str) -> None:
    with pytest.raises(IntegrityError, match=says):
        parsed(broken(change))


def test_an_artifact_must_fit_its_image() -> None:
    layer = Descriptor(LAYER.layer_digest, 1, OCI_LAYER)
    other = Descriptor(number(77), 1, OCI_LAYER)
    config = Descriptor(number(8), 2, OCI_CONFIG)

    def image(*layers: Descriptor) -> Image:
        return Image(SUBJECT, Manifest(OCI_MANIFEST, config, layers, None, None, {}))

    check_fits(IndexArtifact(SUBJECT, (LAYER,)), image(layer), "x")
    for artifact, wrong in (
        (IndexArtifact(None, (LAYER,)), image(layer)),
        (IndexArtifact(Descriptor(number(10), 5, OCI_MANIFEST), (LAYER,)), image(layer)),
        (IndexArtifact(SUBJECT, (LAYER,)), image(layer, other)),
        (IndexArtifact(SUBJECT, (LAYER,)), image(other)),
        (IndexArtifact(SUBJECT, ()), image(layer)),
    ):
        with pytest.raises(IntegrityError):
            check_fits(artifact, wrong, "x")
