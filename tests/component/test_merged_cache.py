"""Merged indexes: made once, found again, made anew when they are not what was made."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from cafs.core.settings import Settings
from cafs.errors import IntegrityError, StorageError, UsageError
from cafs.fetch.check_process import CheckProcess
from cafs.fetch.merged_cache import MergedCache, needs_merging
from cafs.fetch.open_image import OpenImage, open_image
from cafs.index.check_service import MAX_WISH_BYTES, serve_checks
from cafs.index.merge_layers import write_merged
from cafs.index.merged_index import MergedIndex
from cafs.oci.layout import LayoutRepository
from tests.support.converted import make_layer, push_converted
from tests.support.logs import ExpectedLogs

MADE = [make_layer(0), make_layer(1)]


@pytest.fixture
async def image(tmp_path: Path) -> AsyncIterator[OpenImage]:
    layout = LayoutRepository(tmp_path / "layout")
    await push_converted(layout, MADE)
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=0)
    async with await open_image(f"oci:{layout.root}", settings) as opened:
        yield opened


@pytest.fixture
def folder(image: OpenImage) -> Path:
    return image.layers[0].index.path.parent


@pytest.fixture
def checker() -> Iterator[CheckProcess]:
    """The other end in a thread, which a pure client cannot tell from a process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = threading.Thread(target=serve_checks, args=[theirs])
    server.start()
    yield CheckProcess(ours)
    ours.close()
    server.join()
    theirs.close()


async def test_it_is_made_once(image: OpenImage, folder: Path) -> None:
    assert needs_merging(image)
    cache = MergedCache(folder)
    assert cache.open_made(image) is None
    made = await cache.open(image)
    made.verify()
    before = made.path.stat()
    assert made.path.parent == folder
    assert len(made.path.name) == len(image.layers[0].index.path.name), "so that the quota counts it"
    again = await cache.open(image)
    assert again.path.stat().st_ino == before.st_ino
    assert again.metadata == made.metadata
    found = cache.open_made(image)
    assert found is not None
    assert found.metadata == made.metadata


@pytest.mark.parametrize("damage", ["flipped", "short", "empty"])
async def test_a_damaged_one_is_made_again(
    image: OpenImage, folder: Path, damage: str, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("making it again")
    cache = MergedCache(folder)
    made = await cache.open(image)
    good = bytes(made.metadata)
    content = bytearray(made.path.read_bytes())
    content[5000] ^= 1
    made.path.write_bytes({"flipped": content, "short": content[:-4096], "empty": b""}[damage])
    assert (await cache.open(image)).metadata == good


async def test_another_process_makes_the_same(
    image: OpenImage, folder: Path, checker: CheckProcess, tmp_path: Path
) -> None:
    made = await MergedCache(folder).open(image)
    made.path.unlink()
    again = await MergedCache(folder, checker).open(image)
    assert again.metadata == made.metadata
    again.verify()


async def test_one_that_cannot_is_done_without(image: OpenImage, folder: Path, checker: CheckProcess) -> None:
    """Its files may be gone by then, and the paths of a thousand layers may be more than a message holds."""
    with (folder / "out").open("x+b") as out:
        assert not await checker.merge(out.fileno(), [folder / "gone"])
        assert not await checker.merge(out.fileno(), [folder / "gone"] * MAX_WISH_BYTES)
    for layer in image.layers:
        layer.index.path.unlink()
    made = await MergedCache(folder, checker).open(image)
    made.verify()


@pytest.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[Path]:
    """A filesystem with room for two pages."""
    path = tmp_path / "tiny"
    path.mkdir()
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=8k", "cafs-test-tiny", str(path)])
    yield path
    with trio.CancelScope(shield=True):
        await trio.run_process(["umount", str(path)])


async def test_a_full_disk_is_said(image: OpenImage, tiny: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write merged indexes .* No space left"):
        await MergedCache(tiny).open(image)
    assert list(await trio.Path(tiny).iterdir()) == []


async def test_more_than_erofs_can_address_is_refused(image: OpenImage, tmp_path: Path) -> None:
    index = image.layers[0].index
    huge = index.header._replace(data_bytes=9 << 40)
    index.header = huge
    with (tmp_path / "out").open("x+b") as out, pytest.raises(UsageError, match="over the limit of 16 TiB"):
        write_merged(out.fileno(), [index, index])


def test_what_is_no_merged_index(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(8192))
    with pytest.raises(IntegrityError, match="no merged index"):
        MergedIndex.open(tmp_path / "x")
