"""fsspec's ``cafs://``: another address read through the swarm (``cafs://https://host/file``, ``cafs://s3://...``).

For pandas, PyTorch, datasets and whatever else opens files by fsspec, found by its entry point. Random reads
ask for ranges, so only what is read is fetched. Read-only. Without a peer on this node everything comes
straight from the origin. An open file is of one content: where the origin has another one by now, reads fail
with ESTALE. Each call has a trio loop of its own in a thread of its own, so that it may be
called from anywhere, also from within an event loop; any number of threads may use a filesystem.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

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
_Use = Callable[[Content | None], Awaitable[T]]
"""What becomes of an answer; None: the content has no such range."""
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
        """Size (None: its origin does not say) and validators of one file.

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

    def read_part(self, path: str, first: int, last: int, known: dict[str, Any]) -> bytes:
        """The bytes from ``first`` to ``last`` of the content that ``info`` described as ``known``.

        Raises:
            OSError: ESTALE: the origin has another content by now; else as ``info``.
        """
        expected = {} if self._digest else known
        part: bytes = _run(self._ask, path, first, last, partial(_read_same, expected))
        return part

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any
    ) -> CafsFile | IO[bytes]:
        if mode != "rb":
            raise NotImplementedError("cafs:// is read-only")
        options.pop("autocommit", None)
        known = self.info(path)
        if known["size"] is None:
            return self._open_whole(path)
        options["size"] = known["size"]
        file = CafsFile(self, path, mode, block_size or _BLOCK_BYTES, **options)
        file.details = known
        return file

    def _open_whole(self, path: str) -> IO[bytes]:
        """Of what has no known length there is no range to ask for: all of it, in a file without a name."""
        file = TemporaryFile()  # noqa: SIM115 - whoever opens it closes it
        try:
            _run(self._ask, path, 0, None, partial(_copy, file))
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    async def _ask(self, path: str, first: int, last: int | None, use: _Use[T]) -> T:
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

    async def _ask_http(self, peer: Distributor | None, wish: Wish, use: _Use[T]) -> T:
        origins = Origins(parse_guard(ANYWHERE), Patience.from_settings(self._settings))
        try:
            direct = DirectDistributor(origins)
            return await _use(direct if peer is None else PeerOrDirect(peer, direct), wish, use)
        finally:
            origins.close()


class CafsFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An open file; fsspec's caches decide which ranges are asked for."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        part: bytes = self.fs.read_part(self.path, start, end - 1, self.details)
        return part


async def _use(distributor: Distributor, wish: Wish, use: _Use[T]) -> T:
    try:
        async with await distributor.open(wish) as content:
            return await use(content)
    except OriginError as e:
        if e.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _as_os_error(e) from e
    except NotFoundError as e:
        raise FileNotFoundError(str(e)) from e
    except AuthError as e:
        raise PermissionError(str(e)) from e
    except CafsError as e:
        raise OSError(str(e)) from e
    return await use(None)


def _as_os_error(error: OriginError) -> OSError:
    if error.status in {404, 410}:
        return FileNotFoundError(str(error))
    return PermissionError(str(error)) if error.status in {401, 403} else OSError(str(error))


async def _describe(content: Content | None) -> dict[str, Any]:
    if content is None:  # not even a first byte
        return {"size": 0, "type": "file", "ETag": None, "LastModified": None}
    fields = {name.lower(): value for name, value in content.headers}
    return {
        "size": content.content_bytes,
        "type": "file",
        "ETag": fields.get("etag"),
        "LastModified": fields.get("last-modified"),
    }


async def _read(content: Content | None) -> bytes:
    return b"" if content is None else b"".join([piece async for piece in content])


async def _read_same(known: dict[str, Any], content: Content | None) -> bytes:
    if content is None or _differ(known, await _describe(content)):
        raise OSError(errno.ESTALE, "the content changed at its origin while it was read")
    return await _read(content)


def _differ(known: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether these are two contents, as far as both answers say; an ETag says more than a time."""
    tagged = bool(known.get("ETag") and now["ETag"])
    names = ("size", "ETag") if tagged else ("size", "LastModified")
    said = [(known.get(name), now[name]) for name in names]
    return any(before is not None and by_now is not None and before != by_now for before, by_now in said)


async def _copy(file: IO[bytes], content: Content | None) -> None:
    if content is not None:
        async for piece in content:
            file.write(piece)


def _run(call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(trio.run, call, *arguments).result()
