"""``cafs://`` where it is not easy: contents that change, are empty, or whose length nobody says."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

import pytest
import trio

from cafs.filesystem import CafsFileSystem
from tests.support.proxying import Origin, Told, serve_origin

BODY = bytes(range(256)) * 4000


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serve_origin() as served:
        yield served


@pytest.mark.parametrize("proof", ["etag", "last-modified", "size"])
async def test_an_open_file_is_never_of_two_contents(origin: Origin, proof: str) -> None:
    filesystem = CafsFileSystem(skip_instance_cache=True)

    def page(body: bytes, version: str) -> None:
        headers = {"etag": f'"{version}"'} if proof == "etag" else {"last-modified": version}
        origin.page("/f", body, **({} if proof == "size" else headers))

    def read() -> bytes:
        with filesystem.open(f"cafs://{origin.url}/f", block_size=1000) as file:
            assert file.read(1000) == BODY[:1000]
            page(b"x" * (len(BODY) - (proof == "size")), "Tue, 01 Dec 2026 00:00:01 GMT")
            file.seek(500_000)
            with pytest.raises(OSError, match="changed at its origin") as caught:
                file.read(100)
            assert caught.value.errno == errno.ESTALE
        with filesystem.open(f"cafs://{origin.url}/f", block_size=1000) as file:
            return bytes(file.read(3))

    page(BODY, "Tue, 01 Dec 2026 00:00:00 GMT")
    assert await trio.to_thread.run_sync(read) == b"xxx"


async def test_a_file_that_became_shorter_does_not_just_end(origin: Origin) -> None:
    origin.page("/f", BODY, etag='"1"')
    filesystem = CafsFileSystem(skip_instance_cache=True)

    def read() -> None:
        with filesystem.open(f"cafs://{origin.url}/f", block_size=1000) as file:
            origin.page("/f", BODY[:1000], etag='"2"')
            file.seek(500_000)
            with pytest.raises(OSError, match="changed at its origin"):
                file.read(100)

    await trio.to_thread.run_sync(read)


async def test_an_empty_file(origin: Origin) -> None:
    origin.page("/f", b"", etag='"1"')
    filesystem = CafsFileSystem(skip_instance_cache=True)

    def read() -> tuple[int, bytes]:
        with filesystem.open(f"cafs://{origin.url}/f") as file:
            return filesystem.size(f"cafs://{origin.url}/f"), bytes(file.read())

    assert await trio.to_thread.run_sync(read) == (0, b"")


async def test_a_file_of_which_nobody_says_how_long_it_is_comes_once(origin: Origin) -> None:
    origin.pages["/f"] = lambda _: Told(200, {"transfer-encoding": "chunked"}, BODY)
    filesystem = CafsFileSystem(skip_instance_cache=True)

    def read() -> tuple[bytes, bytes]:
        with filesystem.open(f"cafs://{origin.url}/f") as file:
            file.seek(-3, 2)
            end = file.read()
            file.seek(0)
            return end, file.read()

    assert await trio.to_thread.run_sync(read) == (BODY[-3:], BODY)
    assert len(origin.asked) == 2  # what it is, and all of it
