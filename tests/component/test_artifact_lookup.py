"""Which of an image's index artifacts is taken: bound or attached, signed or not; damaged ones never."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cafs.errors import CafsError, IntegrityError, NotFoundError, UntrustedError
from cafs.oci.artifact import IndexArtifact, encode_artifact, publish_artifact
from cafs.oci.artifact_lookup import find_artifact
from cafs.oci.bound_image import bind_artifact, encode_bound_index
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import Image, Manifest, find_image, parse_manifest
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from cafs.oci.signature import SigningKey
from cafs.oci.trust import ANY, TrustedKey, TrustPolicy, signed_by
from tests.support.converted import make_layer, push_converted
from tests.support.logs import ExpectedLogs
from tests.support.oci import push_bytes, push_image

MADE = [make_layer(1), make_layer(2)]
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(31) + b"1"))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(31) + b"2"))
LAX = TrustPolicy()
STRICT = TrustPolicy(keys=(TrustedKey(ANY, KEY.public),), signed=(ANY,))
AMD64 = Platform("linux", "amd64")


@pytest.fixture
def layout(tmp_path: Path) -> LayoutRepository:
    return LayoutRepository(tmp_path / "layout")


async def push_signed(layout: LayoutRepository, key: SigningKey | None = KEY) -> tuple[Image, Descriptor]:
    """An image with an artifact."""
    image, _ = await push_converted(layout, MADE)
    artifact = await publish_artifact(layout, image, [m.artifact_layer() for m in MADE], key=key)
    return await find_image(layout, "v1", AMD64), artifact


async def test_no_flipped_bit_of_a_signed_manifest_gets_through(
    layout: LayoutRepository, expected_logs: ExpectedLogs
) -> None:
    """As somebody would attach it: under the digest that it then has."""
    expected_logs.allow("passing over")
    image, honest = await push_signed(layout)
    content, listed = await layout.manifest(honest), (layout.root / "index.json").read_bytes()
    rng, attached = random.Random(3), 0
    for _ in range(600):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
        try:
            await layout.attach(bytes(flipped), OCI_MANIFEST, image.descriptor)
        except CafsError:
            continue  # no manifest at all
        attached += 1
        found = await find_artifact(layout, image, STRICT)
        assert found.descriptor.digest == honest.digest
        (layout.root / "index.json").write_bytes(listed)
    assert attached > 200


async def test_a_signed_manifest_with_more_in_it_than_is_signed(
    layout: LayoutRepository, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("another form")
    image, honest = await push_signed(layout)
    value = json.loads(await layout.manifest(honest))
    value["annotations"]["org.example.added"] = "later"
    (layout.root / "blobs/sha256" / honest.digest.partition(":")[2]).unlink()
    await layout.attach(json.dumps(value).encode(), OCI_MANIFEST, image.descriptor)
    with pytest.raises(UntrustedError):
        await find_artifact(layout, image, STRICT)


async def test_the_signed_one_of_several(layout: LayoutRepository) -> None:
    image, unsigned = await push_signed(layout, None)
    layers = [m.artifact_layer() for m in MADE]
    signed = await publish_artifact(layout, image.descriptor, layers, key=KEY)
    later = await publish_artifact(layout, image.descriptor, layers, key=OTHER)
    assert len({unsigned.digest, signed.digest, later.digest}) == 3
    assert (await find_artifact(layout, image, LAX)).descriptor.digest == later.digest
    assert (await find_artifact(layout, image, STRICT)).descriptor.digest == signed.digest
    third = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(UntrustedError, match="not in trusted_keys"):
        await find_artifact(layout, image, signed_by(third.public))


async def test_signing_the_same_again_changes_nothing(layout: LayoutRepository) -> None:
    image, first = await push_signed(layout)
    again = await publish_artifact(layout, image.descriptor, [m.artifact_layer() for m in MADE], key=KEY)
    assert again.digest == first.digest


# -- bound images ----------------------------------------------------------------------------------------


class Silent(LayoutRepository):
    """Fails who asks for referrers."""

    async def referrers(self, subject: object, artifact_type: str) -> list[Descriptor]:
        raise AssertionError("asked for referrers")


async def push_bound(layout: LayoutRepository, artifact: IndexArtifact | None = None) -> Descriptor:
    """A bound image without any artifact that is attached; answers the artifact's descriptor."""
    original = await push_image(layout, [m.layer for m in MADE])
    for m in MADE:
        await push_bytes(layout, m.packed)
        await push_bytes(layout, m.content)
    artifact = artifact or IndexArtifact(original, tuple(m.artifact_layer() for m in MADE))
    pushed = await layout.push_manifest(encode_artifact(artifact), OCI_MANIFEST)
    manifest = bind_artifact(await layout.manifest(original), pushed)
    bound = replace(await layout.push_manifest(manifest, OCI_MANIFEST), platform=AMD64)
    await layout.push_manifest(encode_bound_index([bound], [pushed]), OCI_INDEX, "bound")
    return pushed


async def test_a_bound_artifact_is_found_without_asking_for_referrers(tmp_path: Path) -> None:
    layout = Silent(tmp_path / "layout")
    artifact = await push_bound(layout)
    image = await find_image(layout, "bound", AMD64)
    by_manifest = await find_image(layout, image.descriptor.digest, AMD64)
    for place, policy in [(image, LAX), (image, STRICT), (by_manifest, LAX), (by_manifest, STRICT)]:
        found = await find_artifact(layout, place, policy)
        assert found.descriptor.digest == artifact.digest
        assert found.is_bound


async def test_a_bound_artifact_comes_before_attached_ones(layout: LayoutRepository) -> None:
    artifact = await push_bound(layout)
    image = await find_image(layout, "bound", AMD64)
    await publish_artifact(layout, image.descriptor, [m.artifact_layer(options="x") for m in MADE], key=KEY)
    assert (await find_artifact(layout, image, STRICT)).descriptor.digest == artifact.digest
    with pytest.raises(UntrustedError, match="trusted_registries"):
        await find_artifact(layout, image, TrustPolicy(registries=("elsewhere",)))


async def test_an_image_that_names_the_artifact_of_other_layers(
    layout: LayoutRepository, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("passing over")
    await push_bound(layout, IndexArtifact(None, tuple(m.artifact_layer() for m in reversed(MADE))))
    with pytest.raises(IntegrityError, match="does not cover the layers"):
        await find_artifact(layout, await find_image(layout, "bound", AMD64), LAX)


async def test_an_image_whose_artifact_stayed_behind(
    layout: LayoutRepository, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("passing over")
    artifact = await push_bound(layout)
    (layout.root / "blobs/sha256" / artifact.digest.partition(":")[2]).unlink()
    with pytest.raises(NotFoundError, match="copy the whole image"):
        await find_artifact(layout, await find_image(layout, "bound", AMD64), LAX)


@pytest.mark.parametrize("value", ["", "sha256:short", "../../etc/passwd", "sha256:" + "g" * 64])
async def test_an_image_that_names_nonsense(layout: LayoutRepository, value: str) -> None:
    original = await push_image(layout, [m.layer for m in MADE])
    manifest = json.loads(await layout.manifest(original))
    manifest["annotations"] = {"dev.cafs.artifact.digest": value, "dev.cafs.artifact.size": "3"}
    await layout.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, "odd")
    with pytest.raises(IntegrityError, match=r"dev\.cafs\.artifact\.digest"):
        await find_artifact(layout, await find_image(layout, "odd", AMD64), LAX)


async def test_a_docker_manifest_becomes_an_oci_one(layout: LayoutRepository) -> None:
    kinds = ("tar", "tar.gzip")
    digests = [f"sha256:{n:064x}" for n in range(3)]
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": DOCKER_CONFIG,
            "size": 5,
            "digest": digests[0],
        },
        "layers": [
            {"mediaType": f"application/vnd.docker.image.rootfs.diff.{kind}", "size": 6, "digest": digest}
            for kind, digest in zip(kinds, digests[1:], strict=True)
        ],
    }
    artifact = await push_bound(layout)
    bound = parse_manifest(bind_artifact(json.dumps(value).encode(), artifact), OCI_MANIFEST, "bound")
    assert isinstance(bound, Manifest)
    assert [layer.media_type for layer in bound.layers] == [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ]
    assert [layer.digest for layer in bound.layers] == digests[1:]
