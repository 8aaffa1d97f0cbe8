"""OCI layouts on a disk that others use too, that is damaged, or that is full."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from cafs.core.settings import Settings
from cafs.errors import CafsError, IntegrityError, NotFoundError, StateError, StorageError, UsageError
from cafs.fetch.open_image import open_image
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import OCI_INDEX, OCI_MANIFEST
from cafs.oci.referrers import encode_index
from tests.support.converted import make_layer, push_converted
from tests.support.oci import attach_artifact, descriptor_of, push_bytes, push_image

ATTACH = """
import sys, trio
from pathlib import Path
from cafs.oci.layout import LayoutRepository
from tests.support.oci import attach_artifact
async def main():
    layout = LayoutRepository(Path(sys.argv[1]))
    image = await layout.resolve("v1")
    for number in range(10):
        await attach_artifact(layout, image, "kind/x", b"%d of %s" % (number, sys.argv[2].encode()))
trio.run(main)
"""


@pytest.fixture
def layout(tmp_path: Path) -> LayoutRepository:
    return LayoutRepository(tmp_path / "layout")


def unfinished(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(".new-")]


async def test_several_processes_attach_at_once(layout: LayoutRepository) -> None:
    image = await push_image(layout, [b"x"], "v1")
    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(trio.run_process, [sys.executable, "-c", ATTACH, str(layout.root), name])
    assert len(await layout.referrers(image, "kind/x")) == 30
    assert unfinished(layout.root) == []


async def test_a_file_is_linked_not_copied(layout: LayoutRepository, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    blob = descriptor_of(b"content")
    await layout.push_blob(path, blob)
    stored = layout.root / "blobs/sha256" / blob.digest.partition(":")[2]
    assert stored.stat().st_ino == path.stat().st_ino
    path.unlink()
    assert stored.read_bytes() == b"content"
    assert stored.stat().st_mode & 0o777 == 0o644
    assert unfinished(layout.root) == []


async def test_a_refused_file_leaves_nothing(layout: LayoutRepository, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"wrong")
    for blob in (descriptor_of(b"right"), descriptor_of(b"longer than it"), descriptor_of(b"x")):
        with pytest.raises(IntegrityError):
            await layout.push_blob(path, blob)
    with pytest.raises(StorageError, match="No such file"):
        await layout.push_blob(tmp_path / "nowhere", descriptor_of(b"right"))
    assert [p.name for p in (layout.root / "blobs/sha256").iterdir()] == []


async def test_what_is_no_regular_file_is_not_read(layout: LayoutRepository) -> None:
    await push_bytes(layout, b"x")
    blob = descriptor_of(b"y")
    os.mkfifo(layout.root / "blobs/sha256" / blob.digest.partition(":")[2])
    with pytest.raises(IntegrityError, match="not a regular file"):
        await layout.read_range(blob, 0, 1)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"manifests": [{}]}', r"manifests\[0\]: digest is missing"),
        (
            b'{"manifests": [{"digest": "../../../etc/passwd", "size": 1, "mediaType": "x"}]}',
            "is not a digest",
        ),
        (b" " * (5 << 20), "more than the"),
    ],
)
async def test_an_index_json_that_is_none(layout: LayoutRepository, index: bytes, says: str) -> None:
    await push_image(layout, [b"x"], "v1")
    (layout.root / "index.json").write_bytes(index)
    with pytest.raises(IntegrityError, match=says):
        await layout.resolve("v1")


async def test_several_images_want_a_name(layout: LayoutRepository) -> None:
    image = await push_image(layout, [b"x"], "v1")
    await attach_artifact(layout, image, "kind/x", b"payload")
    assert (await layout.resolve("")).digest == image.digest
    await push_image(layout, [b"y"], "v2")
    with pytest.raises(UsageError, match=r"name one of them: v1, v2$"):
        await layout.resolve("")


async def test_the_only_image_may_be_for_several_platforms(layout: LayoutRepository) -> None:
    images = [await push_image(layout, [a.encode()], None, a) for a in ("amd64", "arm64")]
    multi = await layout.push_manifest(encode_index(images), OCI_INDEX, "v1")
    await attach_artifact(layout, images[0], "kind/x", b"payload")
    assert (await layout.resolve("")).digest == multi.digest
    content = await layout.manifest(images[1])
    await layout.push_manifest(content, OCI_MANIFEST, "arm")
    with pytest.raises(UsageError, match=r"name one of them: v1, arm$"):
        await layout.resolve("")


async def test_what_others_wrote_into_index_json_stays(layout: LayoutRepository) -> None:
    image = await push_image(layout, [b"x"], "v1")
    path = layout.root / "index.json"
    index = json.loads(path.read_bytes())
    (entry,) = index["manifests"]
    entry |= {"urls": ["https://mirror.example/x"], "data": "eA==", "com.example": {"of": "theirs"}}
    entry["platform"] = {"architecture": "amd64", "os": "windows", "os.version": "10.0", "os.features": ["w"]}
    index["annotations"] = {"com.example.layout": "theirs"}
    path.write_text(json.dumps(index))
    attached = await attach_artifact(layout, image, "kind/x", b"payload")
    changed = json.loads(path.read_bytes())
    assert changed["manifests"][0] == entry
    assert [one["digest"] for one in changed["manifests"][1:]] == [attached.digest]
    assert {**changed, "manifests": None} == {**index, "manifests": None}


async def test_the_referrers_tag_of_other_tools_is_read(layout: LayoutRepository) -> None:
    image = await push_image(layout, [b"x"], "v1")
    attached = await attach_artifact(layout, image, "kind/x", b"payload")
    index = json.loads((layout.root / "index.json").read_bytes())
    named = [e for e in index["manifests"] if e["digest"] == attached.digest]
    content = json.dumps({"schemaVersion": 2, "manifests": named}).encode()
    listing = await push_bytes(layout, content)
    index["manifests"] = [e for e in index["manifests"] if e["digest"] != attached.digest] + [
        {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": listing.digest,
            "size": listing.size,
            "annotations": {"org.opencontainers.image.ref.name": image.digest.replace(":", "-")},
        }
    ]
    (layout.root / "index.json").write_text(json.dumps(index))
    assert [d.digest for d in await layout.referrers(image, "kind/x")] == [attached.digest]


async def test_a_manifest_of_the_wrong_size(layout: LayoutRepository) -> None:
    image = await push_image(layout, [b"x"], "v1")
    path = layout.root / "blobs/sha256" / image.digest.partition(":")[2]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="declared are"):
        await layout.manifest(image)
    with pytest.raises(NotFoundError):
        await layout.resolve("sha256:" + "0" * 64)


async def test_a_layout_that_stays_locked(tmp_path: Path) -> None:
    layout = LayoutRepository(tmp_path / "layout", lock_deadline_s=0.1)
    await push_image(layout, [b"x"], "v1")
    descriptor = os.open(layout.root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StateError, match="locked by another process"):
            await push_image(layout, [b"y"], "v2")
    finally:
        os.close(descriptor)
    await push_image(layout, [b"y"], "v2")


@pytest.fixture
async def tiny_disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A filesystem of 128 KiB."""
    path = tmp_path / "tiny"
    path.mkdir()
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=128k", "cafs-test-tiny", str(path)])
    yield path
    await trio.run_process(["umount", str(path)])


async def test_a_full_disk(tiny_disk: Path, tmp_path: Path) -> None:
    full = LayoutRepository(tiny_disk / "layout")
    image = await push_image(full, [b"x"], "v1")
    big = os.urandom(300_000)
    path = tmp_path / "big"
    path.write_bytes(big)
    for content in (path, big):
        with pytest.raises(StorageError, match="No space left"):
            await full.push_blob(content, descriptor_of(big))
    assert unfinished(tiny_disk) == []
    assert (await full.resolve("v1")).digest == image.digest
    source = LayoutRepository(tmp_path / "layout")
    await push_converted(source, [make_layer(n) for n in range(30)])
    settings = Settings(cache_dir=tiny_disk / "cache", run_dir=tmp_path)
    with pytest.raises(CafsError, match="No space left"):
        await open_image(f"oci:{source.root}", settings)
    assert unfinished(tiny_disk) == []


async def test_manifests_are_read_before_they_are_stored(layout: LayoutRepository) -> None:
    with pytest.raises(IntegrityError):
        await layout.push_manifest(b"no manifest", OCI_MANIFEST, "v1")
    with pytest.raises(NotFoundError):
        await layout.resolve("v1")
