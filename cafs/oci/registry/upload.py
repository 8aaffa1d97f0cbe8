"""Sending one blob: a session is opened, then one PUT streams the whole (distribution-spec, "Pushing blobs").

Monolithic as containerd does it, which every registry takes. Never half a blob: the registry verifies the
digest before the blob exists, and a broken session is left behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import trio

from cafs.errors import IntegrityError, ProtocolError, StorageError
from cafs.oci.descriptor import AnyBlob
from cafs.oci.registry.answers import resolve_location
from cafs.oci.registry.client import RegistryClient, Request
from cafs.oci.registry.exchange import Exchange
from cafs.oci.registry.library import Body

_PIECE_BYTES = 512 << 10
_VERIFY_S = 600.0
"""A registry may hash and copy the whole blob before it answers the PUT."""


class UploadTarget(Protocol):
    """What is needed of a repository."""

    push_scopes: tuple[str, ...]

    @property
    def name(self) -> str: ...

    @property
    def client(self) -> RegistryClient: ...

    def path(self, rest: str) -> str: ...


async def push_blob(target: UploadTarget, content: Path | bytes, blob: AnyBlob) -> None:
    """Upload once.

    Raises:
        RemoteError: the registry failed, or refused the bytes.
        StorageError: the file cannot be read.
        IntegrityError: the content has not the declared size.
    """
    what = f"{target.name}: pushing blob {blob.digest}"
    size = await trio.to_thread.run_sync(_size_of, content)
    if size != blob.size:
        raise IntegrityError(f"{what}: it has {size} bytes, declared are {blob.size}")
    opening = Request("POST", target.path("blobs/uploads/"), what, target.push_scopes, frozenset((202,)))
    response, _ = await target.client.call(opening)
    location = _with_digest(response, blob, what)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    body = content if isinstance(content, bytes) else _body_of(content, size)
    sending = Request(
        "PUT", location, what, target.push_scopes, frozenset((201, 204)), headers, body, _VERIFY_S
    )
    answer, _ = await target.client.call(sending)
    stored = answer.headers.get("docker-content-digest")
    if stored and stored != blob.digest:
        raise ProtocolError(f"{what}: the registry stored it as {stored[:80]}")


def _with_digest(response: Exchange, blob: AnyBlob, what: str) -> str:
    """Where to send the blob. What the registry keeps in its address is opaque and stays as it is."""
    location = resolve_location(response.url, response.headers.get("location", ""), what)
    return f"{location}{'&' if '?' in location else '?'}digest={quote(blob.digest, safe='')}"


def _size_of(content: Path | bytes) -> int:
    try:
        return len(content) if isinstance(content, bytes) else content.stat().st_size
    except OSError as e:
        raise StorageError(f"cannot read {content!r}: {e.strerror}") from e


def _body_of(path: Path, size: int) -> Body:
    async def body() -> AsyncGenerator[bytes]:
        left = size
        try:
            async with await trio.open_file(path, "rb") as file:
                while left:
                    piece = await file.read(min(_PIECE_BYTES, left))
                    if not piece:
                        raise IntegrityError(f"{path} became shorter while it was pushed")
                    left -= len(piece)
                    yield piece  # noqa: ASYNC119 - the client closes the body it sends
        except OSError as e:
            raise StorageError(f"cannot read {path}: {e.strerror}") from e

    return body
