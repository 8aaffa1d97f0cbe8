"""What every Repository must do, run against each implementation; the reading half against archives."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from cafs.core.digest import Digest
from cafs.core.settings import Settings
from cafs.core.source import BlobRef
from cafs.errors import CafsError, IntegrityError, NotFoundError
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import find_image, list_images, load_config
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from cafs.oci.referrers import encode_index
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.repository import Repository, copy_blob, read_blob
from tests.support.oci import attach_artifact, descriptor_of, log_in, manifest_bytes, push_bytes, push_image
from tests.support.registry import Registry

NOWHERE = Digest("sha256:" + "0" * 64)
KIND = "application/vnd.test.kind"


SETTINGS = Settings(cache_dir=Path("unused"), run_dir=Path("unused"), retries=3)


@pytest.fixture(params=["layout", "registry", "registry with tokens"])
async def repository(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Repository]:
    repo: Repository = LayoutRepository(tmp_path / "layout")
    if request.param != "layout":
        kind = "docker_registry" if request.param == "registry" else "token_registry"
        registry: Registry = request.getfixturevalue(kind)
        log_in(tmp_path, monkeypatch, registry.host)
        repo = RegistryRepository(registry.host, f"conformance/t{uuid.uuid4().hex}", SETTINGS)
    await push_bytes(repo, b"so that it exists")
    yield repo
    await repo.aclose()


async def test_blobs_come_back(repository: Repository, tmp_path: Path) -> None:
    big = os.urandom(3_000_000)
    path = tmp_path / "big"
    path.write_bytes(big)
    blob = descriptor_of(big)
    assert not await repository.has_blob(blob)
    await repository.push_blob(path, blob)
    await repository.push_blob(path, blob)
    assert await repository.has_blob(blob)
    assert await read_blob(repository, blob, len(big)) == big
    for offset, length in ((0, 10), (1_000_000, 500_001), (len(big) - 1, 1), (0, len(big))):
        assert await repository.read_range(blob.blob, offset, length) == big[offset : offset + length]


async def test_the_empty_blob(repository: Repository) -> None:
    blob = await push_bytes(repository, b"")
    assert await read_blob(repository, blob, 0) == b""


async def test_ranges_side_by_side(repository: Repository) -> None:
    content = os.urandom(400_000)
    blob = await push_bytes(repository, content)
    wrong: list[int] = []

    async def read(offset: int) -> None:
        if await repository.read_range(blob.blob, offset, 10_000) != content[offset : offset + 10_000]:
            wrong.append(offset)

    async with trio.open_nursery() as nursery:
        for offset in range(0, 390_000, 13_000):
            nursery.start_soon(read, offset)
    assert wrong == []


async def test_wrong_bytes_are_not_stored(repository: Repository, tmp_path: Path) -> None:
    blob = descriptor_of(b"right")
    path = tmp_path / "wrong"
    path.write_bytes(b"wrong")
    with pytest.raises(CafsError):
        await repository.push_blob(path, blob)
    assert not await repository.has_blob(blob)


async def test_what_is_not_there(repository: Repository) -> None:
    nothing = BlobRef(NOWHERE, 10)
    assert not await repository.has_blob(nothing)
    with pytest.raises(NotFoundError):
        await repository.read_range(nothing, 0, 1)
    with pytest.raises(NotFoundError):
        async with repository.blob(nothing):
            pass
    with pytest.raises(NotFoundError):
        await repository.resolve(NOWHERE)
    with pytest.raises(NotFoundError):
        await repository.manifest(Descriptor(NOWHERE, 10, OCI_MANIFEST))


async def test_declared_sizes_must_be_right(repository: Repository) -> None:
    content = os.urandom(1000)
    right = await push_bytes(repository, content)
    for size in (999, 1001):
        with pytest.raises(CafsError):
            await read_blob(repository, BlobRef(right.digest, size), 2000)
    with pytest.raises(IntegrityError, match="allowed"):
        await read_blob(repository, right, 999)


async def test_an_image_by_tag_and_digest(repository: Repository) -> None:
    pushed = await push_image(repository, [b"layer one", b"layer two"], "v1")
    for selector in ("v1", pushed.digest):
        found = await repository.resolve(selector)
        assert (found.digest, found.size, found.media_type) == (pushed.digest, pushed.size, OCI_MANIFEST)
    image = await find_image(repository, "v1")
    assert [layer.media_type for layer in image.manifest.layers] == [OCI_LAYER] * 2
    config = await load_config(repository, image.manifest)
    assert list(config.diff_ids) == [layer.digest for layer in image.manifest.layers]
    with pytest.raises(NotFoundError):
        await repository.resolve("v2")


async def test_a_tag_moves(repository: Repository) -> None:
    first = await push_image(repository, [b"one"], "latest")
    second = await push_image(repository, [b"two"], "latest")
    assert (await repository.resolve("latest")).digest == second.digest
    assert (await repository.resolve(first.digest)).digest == first.digest


async def test_attaching_leaves_all_tags_of_an_image(repository: Repository) -> None:
    image = await push_image(repository, [b"one"], "1.0")
    content = await repository.manifest(image)
    for tag in ("1.1", "latest"):
        await repository.push_manifest(content, image.media_type, tag)
    for payload in (b"first", b"first", b"second"):
        await attach_artifact(repository, image, KIND, payload)
    assert {(await repository.resolve(tag)).digest for tag in ("1.0", "1.1", "latest")} == {image.digest}
    assert len(await repository.referrers(image, KIND)) == 2


async def test_several_platforms(repository: Repository) -> None:
    images = [await push_image(repository, [a.encode()], None, a) for a in ("amd64", "arm64")]
    entries = []
    for image in images:
        manifest = await find_image(repository, image.digest)
        config = await load_config(repository, manifest.manifest)
        entries.append(Descriptor(image.digest, image.size, image.media_type, platform=config.platform))
    await repository.push_manifest(encode_index(entries), OCI_INDEX, "multi")
    assert [i.descriptor.digest for i in await list_images(repository, "multi")] == [i.digest for i in images]
    chosen = await find_image(repository, "multi", entries[1].platform)
    assert chosen.descriptor.digest == images[1].digest
    assert [s.digest for s in chosen.siblings] == [images[0].digest]


async def test_a_lone_image_is_for_its_own_platform_only(repository: Repository) -> None:
    image = await push_image(repository, [b"x"], "v1", "arm64")
    index = encode_index([Descriptor(image.digest, image.size, image.media_type)])
    await repository.push_manifest(index, OCI_INDEX, "wrapped")
    for name in ("v1", "wrapped"):
        assert (await find_image(repository, name)).descriptor.digest == image.digest, "nobody asked for one"
        fitting = await find_image(repository, name, Platform("linux", "arm64", "v8"))
        assert fitting.descriptor.digest == image.digest
        with pytest.raises(NotFoundError, match="for linux/amd64: its only one is for linux/arm64"):
            await find_image(repository, name, Platform("linux", "amd64"))


async def test_a_manifest_with_wrong_size_or_digest_is_refused(repository: Repository) -> None:
    pushed = await push_image(repository, [b"x"], "v1")
    with pytest.raises(CafsError):
        await repository.manifest(Descriptor(pushed.digest, pushed.size + 1, OCI_MANIFEST))


async def test_referrers(repository: Repository) -> None:
    image = await push_image(repository, [b"layer"], "v1")
    other = await push_image(repository, [b"other layer"], "v2")
    assert await repository.referrers(image, KIND) == []
    first = await attach_artifact(repository, image, KIND, b"payload", colour="red")
    again = await attach_artifact(repository, image, KIND, b"payload", colour="red")
    second = await attach_artifact(repository, image, KIND, b"payload two")
    await attach_artifact(repository, image, KIND + ".other", b"payload")
    assert again == first
    found = {d.digest: d for d in await repository.referrers(image, KIND)}
    assert set(found) == {first.digest, second.digest}
    assert found[first.digest].artifact_type == KIND
    assert found[first.digest].annotations == {"colour": "red"}
    assert found[first.digest].size == first.size
    assert await repository.referrers(other, KIND) == []
    assert (await repository.resolve("v1")).digest == image.digest


async def test_attaching_side_by_side_loses_nothing(repository: Repository) -> None:
    image = await push_image(repository, [b"layer"], "v1")
    attached: list[Digest] = []

    async def attach(number: int) -> None:
        attached.append((await attach_artifact(repository, image, KIND, b"%d" % number)).digest)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(attach, number)
    found = await repository.referrers(image, KIND)
    assert {d.digest for d in found} == set(attached)


async def test_an_artifact_by_tag(repository: Repository) -> None:
    layer = await push_bytes(repository, b"content")
    config = await push_bytes(repository, b"{}", "application/vnd.oci.empty.v1+json")
    content = manifest_bytes(config, [layer], artifactType=KIND)
    pushed = await repository.push_manifest(content, OCI_MANIFEST, "art")
    assert await repository.manifest(await repository.resolve("art")) == content
    assert pushed.digest == descriptor_of(content).digest


async def test_blobs_are_copied_between_repositories(repository: Repository, tmp_path: Path) -> None:
    source = LayoutRepository(tmp_path / "source")
    blob = await push_bytes(source, os.urandom(5000))
    await copy_blob(source, repository, blob, tmp_path)
    assert await repository.has_blob(blob)
    back = LayoutRepository(tmp_path / "back")
    await copy_blob(repository, back, blob, tmp_path)
    assert await read_blob(back, blob, 5000) == await read_blob(source, blob, 5000)


async def test_a_name_without_secrets(repository: Repository) -> None:
    assert repository.name.startswith(("oci:", "docker://"))
