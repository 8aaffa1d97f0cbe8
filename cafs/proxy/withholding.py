"""Bytes that are not let go before they are proven: the last piece waits for the digest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from cafs.core.digest import Digest, new_hash
from cafs.errors import IntegrityError


async def withhold(pieces: AsyncIterator[bytes], digest: Digest | None, what: str) -> AsyncGenerator[bytes]:
    """Pass ``pieces`` on, each when the next one is there, and the last one when the whole has ``digest``.

    A client that was told the length then never takes wrong content for whole. Without a digest everything is
    passed on as it comes.

    Raises:
        IntegrityError: the whole does not have ``digest``; the last piece was not passed on.
    """
    if digest is None:
        async for piece in pieces:
            yield piece
        return
    hasher = new_hash(digest)
    held = b""
    async for piece in pieces:
        if held:
            yield held
        hasher.update(piece)
        held = piece
    if f"{hasher.name}:{hasher.hexdigest()}" != digest:
        raise IntegrityError(f"{what} does not have the digest {digest}: it was not passed on")
    if held:
        yield held
