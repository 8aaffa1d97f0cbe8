"""One content to one file: resumed, paced, verified (trio).

Whatever ends it early, Ctrl-C too, leaves the partial file and nothing else; the target's name is given to
whole files only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import trio

from cafs.core.progress import Progress, Step
from cafs.core.swarm.ids import tellable_url
from cafs.download.pace import Pace
from cafs.download.partial import Identity, PartialFile, length_with, whole_file
from cafs.errors import AuthError, CafsError, NotFoundError, ProtocolError, RemoteError, UsageError
from cafs.p2p.content import Content, Distributor, OriginError, Wish

_MAX_TRIES = 5
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a download went."""

    path: Path
    content_bytes: int
    """In the file."""
    received_bytes: int
    """Of them now; the others were there of an earlier try."""


async def fetch_to_file(
    distributor: Distributor,
    wish: Wish,
    target: Path,
    progress: Progress,
    pace: Pace,
    *,
    of_many: bool = False,
) -> Fetched:
    """Download. ``of_many``: the same command may come again for the others, and this one need not.

    Raises:
        IntegrityError: the content does not have the digest; nothing is kept.
        CafsError: it cannot be had, and why. The partial file stays.
    """
    if of_many and (there := await _there_already(distributor, wish, target)) is not None:
        progress.step(target.name).finish("here already")
        return Fetched(target, there, 0)
    with PartialFile(target) as partial:
        download = _Download(distributor, wish, partial, progress.step(target.name), pace)
        await download.run()
        if wish.digest and wish.first_byte == 0 and wish.last_byte is None:
            await trio.to_thread.run_sync(partial.verify, wish.digest)
        size = partial.size
        partial.finish(recognisable=of_many)
    return Fetched(target, size, download.received)


async def _there_already(distributor: Distributor, wish: Wish, target: Path) -> int | None:
    """The length of what an earlier command brought, if that is still what is wanted."""
    if wish.first_byte or wish.last_byte is not None:
        return None
    if wish.digest:
        return await trio.to_thread.run_sync(length_with, target, wish.digest)
    kept = whole_file(target)
    return await _length_if_same(distributor, wish, kept) if kept is not None else None


async def _length_if_same(distributor: Distributor, wish: Wish, kept: Identity) -> int | None:
    """The last byte is asked for, to hear what the origin has."""
    if not kept.content_bytes:
        return None
    last = kept.content_bytes - 1
    try:
        async with await distributor.open(replace(wish, first_byte=last)) as content:
            is_same = content.first_byte == last and _identity(content, wish).may_continue(kept)
    except CafsError:
        return None  # it is asked for again, which tells why
    return kept.content_bytes if is_same else None


@dataclass
class _Download:
    """One content on its way into one file."""

    distributor: Distributor
    wish: Wish
    partial: PartialFile
    step: Step
    pace: Pace
    received: int = 0

    async def run(self) -> None:
        """Again where it broke off, as long as tries bring something."""
        failures = 0
        try:
            while True:
                before = self.received
                try:
                    await self._fetch_once()
                except OriginError as e:
                    raise _as_ours(e) from e
                except RemoteError as e:
                    came = self.received > before
                    failures = 1 if came else failures + 1
                    lasting = e.given_up or isinstance(e, AuthError)
                    if lasting or (isinstance(e, ProtocolError) and not came) or failures >= _MAX_TRIES:
                        raise
                    await trio.sleep(_PAUSE_S * 2**failures)
                else:
                    return
        finally:
            self.step.finish()

    async def _fetch_once(self) -> None:
        partial, wish, kept = self.partial, self.wish, self.partial.kept
        at = _goes_on_at(partial.size, wish, kept) if kept is not None else 0
        if kept is not None and _is_whole(wish, partial.size, kept):
            self.step.advance(partial.size)
            return
        async with await _open_at(self.distributor, wish, at) as content:
            identity = _identity(content, wish)
            goes_on = at and content.first_byte == wish.first_byte + at
            if not at or (kept is not None and goes_on and identity.may_continue(kept)):
                partial.begin(identity, at)
                self.step.advance(at)
                await self._receive(content)
                return
        partial.discard()
        await self._fetch_once()

    async def _receive(self, content: Content) -> None:
        async for piece in content:
            self.partial.write(piece)
            self.received += len(piece)
            self.step.advance(len(piece))
            if wait_s := self.pace.wait_s(len(piece), trio.current_time()):
                await trio.sleep(wait_s)


async def _open_at(distributor: Distributor, wish: Wish, at: int) -> Content:
    try:
        return await distributor.open(replace(wish, first_byte=wish.first_byte + at))
    except OriginError as e:
        if e.status != 416 or not at:
            raise
    return await distributor.open(wish)  # it has become shorter: from the beginning


def _goes_on_at(size: int, wish: Wish, kept: Identity) -> int:
    """How much of what is there may stay; of what is whole the last byte is asked for, to hear what it is."""
    if (kept.first_byte, kept.last_byte) != (wish.first_byte, wish.last_byte):
        return 0
    if kept.content_bytes is None:
        return size
    last = kept.content_bytes - 1 if wish.last_byte is None else min(wish.last_byte, kept.content_bytes - 1)
    return min(size, max(0, last - wish.first_byte))


def _is_whole(wish: Wish, size: int, kept: Identity) -> bool:
    """An earlier try had it all, and only its name is missing; it will be verified."""
    asks_for_all = wish.first_byte == kept.first_byte == 0 and wish.last_byte is kept.last_byte is None
    return bool(asks_for_all and wish.digest and kept.digest == wish.digest and kept.content_bytes == size)


def _identity(content: Content, wish: Wish) -> Identity:
    fields = {name.lower(): value for name, value in content.headers}
    return Identity(
        tellable_url(wish.url, private=True),
        wish.digest or "",
        fields.get("etag", ""),
        fields.get("last-modified", ""),
        content.content_bytes,
        wish.first_byte,
        wish.last_byte,
    )


def _as_ours(error: OriginError) -> CafsError:
    """The origin's no, for a person."""
    if error.status in {404, 410}:
        return NotFoundError(str(error))
    if error.status in {401, 403, 407}:
        return AuthError(f"{error} (credentials: --header 'Authorization: ...')")
    if error.status == 416:
        return UsageError(f"{error}: the content has no such range")
    return RemoteError(str(error))
