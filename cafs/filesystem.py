"""fsspec's ``cafs://``: another address read through the swarm (``cafs://https://host/file``, ``cafs://s3://...``).

For pandas, PyTorch, datasets and whatever else opens files by fsspec, found by its entry point. Random reads
ask for ranges, so only what is read is fetched. Read-only. Without a peer on this node everything comes
straight from the origin. Each call has a trio loop of its own in a thread of its own, so that it may be
called from anywhere, also from within an event loop; any number of threads may use a filesystem.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import trio
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from cafs.cli.config import load_settings
from cafs.core.digest import parse_digest
from cafs.core.proxying.guard import parse_guard
from cafs.download.get import ANYWHERE
from cafs.download.sources import SourceDistributor
from cafs.errors import AuthError, CafsError, NotFoundError
from cafs.p2p.content import Content, Distributor, OriginError, Wish
from cafs.p2p.drivers import is_driven
from cafs.p2p.node_client import NodeDistributor, usual_node_socket
from cafs.proxy.direct import DirectDistributor
from cafs.proxy.fallback import PeerOrDirect
from cafs.proxy.origin import Origins, Patience

T = TypeVar("T")
_PREFIX = "cafs://"
_BLOCK_BYTES = 1 << 20
"""A piece's size: what a small read brings anyway."""


class CafsFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """See the module.

    Args:
        headers: Sent to the origin, and to nobody else.
        tag: Keeps contents apart that have the same address.
        digest: What the (single) file that is read must have, as its identity in the swarm.
        anonymous: Sources that are not HTTP's are asked without credentials, and shared with everybody.
        peer: The peer's socket; None: where a peer of this user usually listens.
    """

    protocol = "cafs"
    root_marker = ""

    def __init__(
        self,
        headers: dict[str, str] | None = None,
        tag: str = "",
        digest: str | None = None,
        anonymous: bool = False,
        peer: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._headers = tuple((name.lower(), value) for name, value in (headers or {}).items())
        self._tag = tag
        self._anonymous = anonymous
        self._digest = parse_digest(digest) if digest else None
        self._settings = load_settings(os.environ, is_root=os.geteuid() == 0)
        self._socket = Path(peer) if peer else usual_node_socket(self._settings.run_dir)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix(_PREFIX)

    def _parent(self, path: str) -> str:
        return str(path).rpartition("/")[0]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and validators of one file.

        Raises:
            FileNotFoundError, PermissionError, OSError: as the origin says.
        """
        path = self._strip_protocol(path)
        return {**_run(self._ask, path, 0, 0, _describe), "name": path}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the origin has it."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes from ``start`` to before ``end``; both may count from the end."""
        path = self._strip_protocol(path)
        first, last = start or 0, None if end is None else end - 1
        if first < 0 or (end is not None and end < 0):
            size = int(self.info(path)["size"])
            first = max(0, size + first) if first < 0 else first
            last = size + end - 1 if end is not None and end < 0 else last
        if last is not None and last < first:
            return b""
        content: bytes = _run(self._ask, path, first, last, _read)
        return content

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> CafsFile:
        if mode != "rb":
            raise NotImplementedError("cafs:// is read-only")
        options.pop("autocommit", None)
        return CafsFile(self, path, mode, block_size or _BLOCK_BYTES, **options)

    async def _ask(
        self, path: str, first: int, last: int | None, use: Callable[[Content], Awaitable[T]]
    ) -> T:
        wish = Wish(
            url=path,
            digest=self._digest,
            tag=self._tag,
            headers=self._headers,
            first_byte=first,
            last_byte=last,
        )
        node = NodeDistributor(self._socket)
        peer = node if await node.is_there() else None
        if is_driven(path):
            return await _use(SourceDistributor(peer, anonymous=self._anonymous), wish, use)
        return await self._ask_http(peer, wish, use)

    async def _ask_http(
        self, peer: Distributor | None, wish: Wish, use: Callable[[Content], Awaitable[T]]
    ) -> T:
        origins = Origins(parse_guard(ANYWHERE), Patience.from_settings(self._settings))
        try:
            direct = DirectDistributor(origins)
            return await _use(direct if peer is None else PeerOrDirect(peer, direct), wish, use)
        finally:
            origins.close()


class CafsFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An open file; fsspec's caches decide which ranges are asked for."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start, end)
        return content


async def _use(distributor: Distributor, wish: Wish, use: Callable[[Content], Awaitable[T]]) -> T:
    try:
        async with await distributor.open(wish) as content:
            return await use(content)
    except OriginError as e:
        if e.status == 416 and use is _read:
            return b""  # type: ignore[return-value]  # what _read gives: there is nothing
        raise _as_os_error(e) from e
    except NotFoundError as e:
        raise FileNotFoundError(str(e)) from e
    except AuthError as e:
        raise PermissionError(str(e)) from e
    except CafsError as e:
        raise OSError(str(e)) from e


def _as_os_error(error: OriginError) -> OSError:
    if error.status in {404, 410}:
        return FileNotFoundError(str(error))
    return PermissionError(str(error)) if error.status in {401, 403} else OSError(str(error))


async def _describe(content: Content) -> dict[str, Any]:
    fields = {name.lower(): value for name, value in content.headers}
    return {
        "size": content.content_bytes,
        "type": "file",
        "ETag": fields.get("etag"),
        "LastModified": fields.get("last-modified"),
    }


async def _read(content: Content) -> bytes:
    return b"".join([piece async for piece in content])


def _run(call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(trio.run, call, *arguments).result()
