"""Sources behind fsspec: S3, GCS, HDFS, Hugging Face and whatever else has a driver; and local files.

They come through the peer where one runs and may have them (``cafs.p2p.drivers``); else straight, by the same
drivers in this process, with this user's credentials.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from cafs.core.swarm.ids import OWN_CREDENTIALS, tellable_url
from cafs.errors import CafsError, RemoteError
from cafs.p2p.content import Content, Distributor, Headers, OriginError, Wish
from cafs.p2p.drivers import call_driver, facts_of, open_filesystem

_READ_BYTES = 4 << 20


class SourceDistributor:
    """See ``Distributor``: through the peer, and straight from the first wish on that it cannot serve."""

    def __init__(self, peer: Distributor | None, *, anonymous: bool = False) -> None:
        """``anonymous``: no credentials are used, and what comes is shared with everybody."""
        self._peer = peer
        self._straight = FsspecDistributor(anonymous=anonymous)
        self._marks: Headers = () if anonymous else (OWN_CREDENTIALS,)

    @property
    def by_peer(self) -> bool:
        """The peer has served all so far."""
        return self._peer is not None

    async def open(self, wish: Wish) -> Content:
        """See ``Distributor``."""
        if self._peer is not None:
            try:
                return await self._peer.open(replace(wish, headers=(*wish.headers, *self._marks)))
            except CafsError:
                self._peer = None  # it has no such driver or credentials: perhaps this user has
        return await self._straight.open(wish)


class FsspecDistributor:
    """See ``Distributor``: straight from the source, by its driver."""

    def __init__(self, *, anonymous: bool = False) -> None:
        self._anonymous = anonymous

    async def open(self, wish: Wish) -> FsspecContent:
        """See ``Distributor``."""
        opened = partial(open_filesystem, wish.url, anonymous=self._anonymous)
        filesystem, path = await trio.to_thread.run_sync(opened)
        info = await call_driver(partial(filesystem.info, path))
        facts = facts_of(info)
        size = facts.size
        last = size - 1 if wish.last_byte is None else min(wish.last_byte, size - 1)
        if wish.first_byte and wish.first_byte > last:
            told = (("content-range", f"bytes */{size}"),)
            raise OriginError(f"{tellable_url(wish.url, private=True)} has {size} bytes only", 416, told, b"")
        file = await call_driver(partial(filesystem.open, path, "rb", block_size=_READ_BYTES))
        return FsspecContent(file, facts.headers, (wish.first_byte, last, size))


class FsspecContent:
    """See ``Content``."""

    def __init__(self, file: Any, headers: Headers, span: tuple[int, int, int]) -> None:
        self._file = file
        self.status = 200
        self.headers = headers
        self.first_byte, self.last_byte, self.content_bytes = span
        self._at = self.first_byte

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        length = min(_READ_BYTES, self.last_byte + 1 - self._at)
        if length <= 0:
            raise StopAsyncIteration
        piece: bytes = await call_driver(partial(self._read, length))
        if not piece:
            raise RemoteError("the source ended too soon")
        self._at += len(piece)
        return piece

    def _read(self, length: int) -> bytes:
        if self._file.tell() != self._at:
            self._file.seek(self._at)
        return bytes(self._file.read(length))


async def list_files(url: str, *, anonymous: bool = False) -> dict[str, str]:
    """Every file below ``url``, by its path relative to it.

    Raises:
        CafsError: the source does not list, or fails.
    """
    filesystem, root = await trio.to_thread.run_sync(partial(open_filesystem, url, anonymous=anonymous))
    found: list[str] = await call_driver(partial(filesystem.find, root))
    base, address = root.rstrip("/"), _as_uri if url.startswith("file://") else filesystem.unstrip_protocol
    return {path[len(base) :].lstrip("/") or Path(path).name: address(path) for path in found}


def _as_uri(path: str) -> str:
    return Path(path).as_uri()
