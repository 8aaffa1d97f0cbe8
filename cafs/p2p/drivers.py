"""Origins behind fsspec's drivers: S3, GCS, HDFS, Hugging Face, and directories that all hosts share.

Used by ``Sources`` where an address is not HTTP's. The drivers are optional (the extra ``sources``);
their calls wait, so they run in threads. Their credentials are this host's own, from its environment and
configuration, and used only for wishes that say so (``OWN_CREDENTIALS``), which makes them private. Without,
a source is asked as anybody may ask it; those that know no such thing are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import trio

from cafs.core.swarm.ids import OWN_CREDENTIALS
from cafs.errors import AuthError, CafsError, NotFoundError, RemoteError, UsageError
from cafs.p2p.content import Headers, OriginError

BLOCK_BYTES = 4 << 20
THREADS = 16
_ANONYMOUS: dict[str, dict[str, Any]] = {
    "s3": {"anon": True},
    "s3a": {"anon": True},
    "gs": {"token": "anon"},
    "gcs": {"token": "anon"},
    "hf": {"token": False},
}
"""What makes a driver ask as anybody."""
SCHEMES = frozenset([*_ANONYMOUS, "hdfs", "file"])
"""A peer knows only these: of others it is not known whom an address makes it talk to."""
_TAGS = ("ETag", "etag", "checksum", "md5Hash", "generation", "blob_id")
_TIMES = ("LastModified", "last_modified", "updated", "mtime")
_NO_CREDENTIALS = frozenset(["NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"])
"""botocore's, which this module does not load."""
T = TypeVar("T")


def open_filesystem(url: str, *, anonymous: bool = False) -> tuple[Any, str]:
    """The driver's filesystem for ``url``, and the path in it. Waits.

    Raises:
        UsageError: there is no such driver, it is not installed, or it cannot ask anonymously.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec  # noqa: PLC0415 - an extra
        from fsspec.core import url_to_fs  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise UsageError(f"{scheme}:// needs fsspec: pip install 'cafs[sources]'") from e
    if scheme not in fsspec.available_protocols():
        raise UsageError(f"{scheme}:// is no source that is known here")
    if anonymous and scheme not in _ANONYMOUS:
        raise UsageError(f"{scheme}:// cannot be asked without credentials")
    try:
        if scheme == "file":  # its drivers take paths, and would look for a %20 that is none
            return fsspec.filesystem("file"), unquote(urlsplit(url).path)
        filesystem, path = url_to_fs(url, **(_ANONYMOUS[scheme] if anonymous else {}))
    except ImportError as e:
        raise UsageError(f"{scheme}:// needs a driver that is missing ({one_line(e)})") from e
    except ValueError as e:
        raise UsageError(f"{scheme}://: {one_line(e)}") from e
    return filesystem, str(path)


async def call_driver(call: Callable[[], T], threads: trio.CapacityLimiter | None = None) -> T:
    """A driver's call in a thread, its errors as ours. What they raise is as varied as they are.

    Raises:
        NotFoundError, AuthError: the source says no.
        RemoteError: it fails.
    """
    try:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
    except FileNotFoundError as e:
        raise NotFoundError(f"there is no such file at the source: {one_line(e)}") from e
    except PermissionError as e:
        raise AuthError(f"the source refuses: {one_line(e)}") from e
    except CafsError:
        raise
    except Exception as e:
        if type(e).__name__ in _NO_CREDENTIALS:
            raise AuthError(f"there are no credentials for the source: {one_line(e)}") from e
        raise RemoteError(f"the source fails: {type(e).__name__}: {one_line(e)}") from e


def one_line(error: BaseException) -> str:
    """Its message, short."""
    return " ".join(str(error).split())[:200]


def is_driven(url: str) -> bool:
    """It is no address of HTTP's."""
    return urlsplit(url).scheme not in {"http", "https"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source says of a file: equal as long as its content is."""

    size: int
    etag: str
    last_modified: str

    @property
    def headers(self) -> Headers:
        """As an origin of HTTP's would say it. Nobody knows how long it holds."""
        said = (("etag", self.etag), ("last-modified", self.last_modified))
        return (*((name, value) for name, value in said if value), ("cache-control", "no-cache"))


def facts_of(info: dict[str, Any]) -> Facts:
    """What ``info`` of any driver says, in one form.

    Raises:
        UsageError: it is a directory.
    """
    if info.get("type") == "directory":
        raise UsageError("this is a directory: get it with --recursive")
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    changed = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(changed, datetime):
        changed = changed if changed.tzinfo else changed.replace(tzinfo=UTC)
        changed = changed.timestamp()
    size = int(info.get("size") or 0)
    if not tag and changed is not None:
        tag = f"{changed}-{size}"
    modified = datetime.fromtimestamp(changed, UTC) if isinstance(changed, int | float) else None
    told = format_datetime(modified, usegmt=True) if modified else str(changed or "")
    return Facts(size, '"{}"'.format(tag.strip('"')) if tag else "", told)


class Drivers:
    """The way to all sources that are not HTTP's."""

    def __init__(self, shared: tuple[Path, ...] = ()) -> None:
        """``shared``: ``file://`` is read below these directories only."""
        self._shared = shared
        self._threads = trio.CapacityLimiter(THREADS)

    async def open(self, url: str, headers: Headers) -> DrivenFile:
        """A file, and what its source says of it.

        Raises:
            OriginError: the source says no.
            UsageError: it is none that a peer reads from.
            RemoteError: it fails.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES or "::" in rest:
            raise UsageError(f"{scheme[:40]}:// is no source that a peer knows")
        if "#" in rest:
            raise UsageError("a # is no part of what a task is called: contents would be mixed up")
        anonymous = not any(name.lower() == OWN_CREDENTIALS[0] for name, _ in headers)
        filesystem, path = await self._call(partial(open_filesystem, url, anonymous=anonymous))
        if scheme == "file":
            await self._call(partial(self._check_shared, Path(path)))
        return DrivenFile(filesystem, path, self._call)

    def _check_shared(self, path: Path) -> None:
        if not any(path.resolve().is_relative_to(directory.resolve()) for directory in self._shared):
            raise UsageError("file:// is not below shared_directories: hosts may have other files there")

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await call_driver(call, self._threads)
        except NotFoundError as e:
            raise OriginError(str(e), HTTPStatus.NOT_FOUND, (), b"") from e
        except AuthError as e:
            raise OriginError(str(e), HTTPStatus.FORBIDDEN, (), b"") from e


class DrivenFile:
    """One file behind a driver. For one reader at a time."""

    def __init__(self, filesystem: Any, path: str, call: Callable[..., Any]) -> None:
        self._filesystem = filesystem
        self._path = path
        self._call = call

    async def facts(self) -> Facts:
        """What the source says of it now; raises as ``Drivers.open``."""
        return facts_of(await self._call(self._info))

    def _info(self) -> dict[str, Any]:
        self._filesystem.invalidate_cache(self._path)
        return dict(self._filesystem.info(self._path))

    async def read(self, first: int, end: int) -> bytes:
        """The bytes from ``first`` to before ``end``, fewer if it has become shorter; raises as above."""
        # By keyword: s3fs has a version in the second place.
        data: bytes = await self._call(partial(self._filesystem.cat_file, self._path, start=first, end=end))
        if len(data) > end - first:
            raise RemoteError("the source's driver gave more than it was asked for")
        return data


class DrivenBody:
    """The bytes of an answer."""

    def __init__(self, file: DrivenFile, facts: Facts, first: int, end: int) -> None:
        self._file = file
        self._facts = facts
        self._at = first
        self._end = end

    async def receive(self) -> bytes:
        """The next block, empty at the end.

        A driver's read has no If-Range: that the file is still the same is asked after each block and
        before it is given to anybody.

        Raises:
            ChangedContentError: it is not.
            OriginError, RemoteError: as ``Drivers.open``.
        """
        if self._at >= self._end:
            return b""
        data = await self._file.read(self._at, min(self._end, self._at + BLOCK_BYTES))
        if await self._file.facts() != self._facts:
            raise ChangedContentError
        if not data:
            raise RemoteError("the source ended too soon")
        self._at += len(data)
        return data


class ChangedContentError(Exception):
    """The file is another one than it was."""
