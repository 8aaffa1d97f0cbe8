"""Manifests, indexes and configs of others: read, or refused with the field named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.oci.descriptor import Descriptor, Platform, encode_descriptor, parse_platform
from cafs.oci.fields import MAX_ITEMS, parse_json_object
from cafs.oci.image import (
    MAX_MANIFEST_BYTES,
    ImageIndex,
    Manifest,
    choose_platform,
    parse_config,
    parse_manifest,
)
from cafs.oci.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, is_layer
from cafs.oci.referrers import encode_index, merge_referrers, referrers_tag

D = "sha256:" + "ab" * 32


def manifest(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "config": {"mediaType": OCI_CONFIG, "digest": D, "size": 2},
        "layers": [{"mediaType": OCI_LAYER, "digest": D, "size": 3}],
    }
    return {**value, **changes}


def parse(value: object, media_type: str = OCI_MANIFEST) -> Manifest | ImageIndex:
    return parse_manifest(json.dumps(value).encode(), media_type, "manifest X")


def test_a_manifest_is_read() -> None:
    document = parse(manifest(annotations={"a": "b"}, artifactType="x/y"))
    assert isinstance(document, Manifest)
    assert document.is_image
    assert [layer.size for layer in document.layers] == [3]
    assert document.annotations == {"a": "b"}
    assert document.artifact_type == "x/y"
    assert document.subject is None


LAYER = {"mediaType": OCI_LAYER, "digest": D, "size": 3}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (manifest(config=None), "config is missing"),
        (manifest(config=[]), "config is not an object"),
        (manifest(layers={}), "layers is not an array"),
        (manifest(layers=[1]), "layers[0] is not an object"),
        (manifest(layers=[{**LAYER, "size": "3"}]), "layers[0]: size is not a whole number"),
        (manifest(layers=[{**LAYER, "size": True}]), "layers[0]: size is not a whole number"),
        (manifest(layers=[{**LAYER, "size": -1}]), "layers[0]: size is out of range"),
        (manifest(layers=[{**LAYER, "size": 1 << 70}]), "layers[0]: size is out of range"),
        (manifest(layers=[{**LAYER, "digest": "sha256:12"}]), "layers[0]: digest is not a digest"),
        (manifest(layers=[{**LAYER, "digest": "../../x"}]), "layers[0]: digest is not a digest"),
        (manifest(layers=[LAYER] * 5000), "layers has 5000 entries"),
        (manifest(annotations={"a": 1}), "annotations holds a value that is not a string"),
        (manifest(mediaType=DOCKER_MANIFEST), "mediaType is"),
        (manifest(manifests=[]), "ambiguous"),
        (manifest(subject="x"), "subject is not an object"),
        ([], "not a JSON object"),
    ],
)
def test_wrong_shapes_name_the_field(value: object, field: str) -> None:
    with pytest.raises(IntegrityError) as error:
        parse(value)
    assert field in str(error.value)
    assert str(error.value).startswith("manifest X")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (MAX_MANIFEST_BYTES + 1), b'{"a": 1e999, "config": NaN}',
     b'{"a": "\\ud800"}', b'{"a": "\xed\xa0\x80"}', b'{"\\uDfff": 1}', '{"a": 1}'.encode("utf-16")],
)  # fmt: skip
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_manifest(content, OCI_MANIFEST, "manifest X")


def test_what_would_take_long_to_parse_is_refused_unread() -> None:
    """It keeps the interpreter, and with it whoever reads from the mount."""
    with pytest.raises(IntegrityError, match="more than the 250000 values"):
        parse_manifest(b'{"layers": [' + b"[]," * (1 << 20) + b"[]]}", OCI_MANIFEST, "manifest X")
    many = [{"mediaType": OCI_MANIFEST, "digest": D, "size": 3, "annotations": {"a": "b"}}] * MAX_ITEMS
    listed = parse({"schemaVersion": 2, "manifests": many}, OCI_INDEX)
    assert isinstance(listed, ImageIndex)
    assert len(listed.manifests) == MAX_ITEMS


def test_another_kind_of_document_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not read here"):
        parse(manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws")


KEYS = st.sampled_from(
    ["config", "layers", "digest", "size", "mediaType", "manifests", "platform", "os", "architecture",
     "annotations", "subject", "rootfs", "diff_ids", "artifactType"]
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(), max_size=8)
    | st.just(D)
    | st.just(OCI_LAYER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(st.dictionaries(KEYS, JSON, max_size=6), st.sampled_from([OCI_MANIFEST, OCI_INDEX]))
def test_any_json_is_read_or_refused(value: object, media_type: str) -> None:
    for read in (lambda c: parse_manifest(c, media_type, "m"), lambda c: parse_config(c, "c")):
        try:
            read(json.dumps(value).encode())
        except IntegrityError as e:
            error = str(e)
        else:
            continue
        assert "\n" not in error


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        parse_json_object(content, "x", 100)
    except IntegrityError as e:
        error = str(e)
    else:
        return
    assert "\n" not in error


def entry(platform: str | None, digest: str = D) -> Descriptor:
    return Descriptor(digest, 1, OCI_MANIFEST, platform=parse_platform(platform) if platform else None)


def test_the_platform_is_chosen_by_variant_then_order() -> None:
    entries = [entry(p, "sha256:" + f"{i:064x}") for i, p in enumerate(
        ["linux/amd64/v3", "linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7"])]  # fmt: skip
    index = ImageIndex(OCI_INDEX, tuple(entries), {})

    def chosen(platform: str) -> int:
        return entries.index(choose_platform(index, parse_platform(platform), "x"))

    assert chosen("linux/amd64") == 1
    assert chosen("linux/amd64/v3") == 0
    assert chosen("linux/arm64") == 2
    assert chosen("linux/arm64/v8") == 2
    assert chosen("linux/arm/v6") == 3
    assert chosen("linux/arm/v7") == 4
    with pytest.raises(NotFoundError, match="linux/s390x; it has: linux/amd64, linux/amd64/v3"):
        chosen("linux/s390x")


def test_a_single_image_without_platform_serves_all() -> None:
    index = ImageIndex(OCI_INDEX, (entry(None),), {})
    assert choose_platform(index, Platform("linux", "amd64"), "x") == entry(None)


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "Linux/amd64", "a/b\n"]
)
def test_bad_platforms(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


def test_layer_media_types() -> None:
    assert is_layer(OCI_LAYER)
    assert is_layer(OCI_LAYER + "+gzip")
    assert is_layer(OCI_LAYER + "+zstd")
    assert is_layer("application/vnd.docker.image.rootfs.diff.tar.gzip")
    assert is_layer("application/vnd.docker.image.rootfs.diff.tar.zstd")
    assert not is_layer("application/vnd.docker.image.rootfs.diff.tar.zstd+gzip")
    assert not is_layer(OCI_LAYER + "+encrypted")
    assert not is_layer("application/octet-stream")


DESCRIPTORS = st.builds(
    Descriptor,
    st.integers(0, 1 << 64).map(lambda i: f"sha256:{i:064x}"),
    st.integers(0, 1 << 50),
    st.just(OCI_MANIFEST),
    st.none() | st.just("application/x"),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.none() | st.just(Platform("linux", "arm", "v7")),
)


@given(st.lists(DESCRIPTORS, max_size=5), st.lists(DESCRIPTORS, max_size=5))
def test_referrer_lists_come_back_as_written(known: list[Descriptor], added: list[Descriptor]) -> None:
    merged = merge_referrers(known, added)
    assert {d.digest for d in merged} == {d.digest for d in known + added}
    index = parse_manifest(encode_index(merged), OCI_INDEX, "x")
    assert isinstance(index, ImageIndex)
    assert list(index.manifests) == merged
    assert merge_referrers(merged, added) == merged


def test_referrers_tag() -> None:
    assert referrers_tag(D) == "sha256-" + "ab" * 32
    assert referrers_tag("sha512:" + "a" * 128) == "sha512-" + "a" * 64


def test_descriptors_encode_as_oci_writes_them() -> None:
    descriptor = Descriptor(D, 5, OCI_MANIFEST, platform=Platform("linux", "amd64"))
    assert list(encode_descriptor(descriptor)) == ["mediaType", "digest", "size", "platform"]
