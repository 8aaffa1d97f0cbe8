"""Going to the origin: HTTP(S) with ranges, or a driver's, guarded by validators, within a budget.

Used by downloads that were told to. One ``Sources`` for all of a host: what it knows of an origin's health
and the budget are shared. Answers that are no content become ``OriginError``, whole; an origin that changes
the content under way raises ``ChangedError``. Cancellation closes the connection of that request only.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from cafs.core.credentials import is_secret_field
from cafs.core.proxying.address import Authority
from cafs.core.proxying.guard import Guard as AddressGuard
from cafs.core.recent import Recent
from cafs.core.swarm.ids import OWN_CREDENTIALS
from cafs.core.swarm.origin_health import Breaker
from cafs.core.swarm.token_bucket import TokenBucket
from cafs.core.tracing import UNTRACED, Tracer
from cafs.errors import CafsError, ProtocolError, RemoteError
from cafs.oci.registry.address import is_loopback
from cafs.oci.registry.answers import (
    REDIRECTS,
    origin_of,
    parse_content_range,
    parse_retry_after,
    resolve_location,
)
from cafs.oci.registry.direct import DirectTransport
from cafs.oci.registry.exchange import Exchange, Patience
from cafs.p2p.content import Headers, OriginError
from cafs.p2p.drivers import ChangedContentError, DrivenBody, Drivers, is_driven

MAX_REDIRECTS = 10
MAX_ERROR_BYTES = 1 << 20
"""Of an error's body that are passed on."""
_OURS = frozenset(
    [
        OWN_CREDENTIALS[0],
        "host",
        "range",
        "if-range",
        "accept-encoding",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
    ]
)
"""Headers of a wish that are ours to set."""
Origin = tuple[str, str, int | None]


_MANY = 10_000
_ORIGINS = 1024
"""Known at a time: who is told of more forgets how those did that were asked longest ago."""
_LIMITED_REQUESTS = 65_536
"""A request takes so many tokens: the bucket's least burst is one request."""


class ChangedError(RemoteError):
    """The content at the origin is another one than before."""


class ForbiddenAddressError(RemoteError):
    """Nobody may be sent there: see ``AddressGuard``."""


class LeftAloneError(RemoteError):
    """The origin failed, or asked for a pause, and is not asked now."""

    def __init__(self, message: str, wait_s: float, *, failing: bool) -> None:
        super().__init__(message)
        self.retry_after_s = wait_s
        self.failing = failing
        """It failed again and again; else it asked for the pause."""


class Body(Protocol):
    """Bytes that come."""

    async def receive(self) -> bytes:
        """The next ones, empty at the end."""
        ...


class Paces(Protocol):
    """Bounds how fast bytes pass."""

    async def spend(self, count: int) -> None:
        """Wait until so many may pass."""
        ...


class Unpaced:
    """No bound."""

    async def spend(self, count: int) -> None:
        """See ``Paces``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """For each origin; 0: none."""

    concurrency: int = 8
    requests_per_s: int = 0
    bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Guard:
    """What the origin said of the content first; all later answers must agree."""

    etag: str | None = None
    last_modified: str | None = None
    content_bytes: int | None = None

    @property
    def validator(self) -> str | None:
        """For If-Range: a strong one."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified if self.etag is None else None


@dataclass(slots=True)
class SourceAnswer:
    """An answer with content; its body is still to be read."""

    headers: Headers
    first_byte: int
    last_byte: int | None
    """Inclusive; None: as far as it goes."""
    content_bytes: int | None
    takes_ranges: bool
    guard: Guard
    _body: Body
    _bucket: TokenBucket
    _pace: Paces

    async def receive(self) -> bytes:
        """The next bytes, empty at the end.

        Raises:
            RemoteError: the origin failed in the middle.
        """
        try:
            data = await self._body.receive()
        except ChangedContentError:
            raise ChangedError("the content changed while it was read") from None
        if data:
            await self._pace.spend(len(data))
            if wait := self._bucket.take(len(data), trio.current_time()):
                await trio.sleep(wait)
        return data


@dataclass(slots=True)
class _OriginState:
    room: trio.CapacityLimiter
    requests: TokenBucket
    traffic: TokenBucket
    breaker: Breaker = field(default_factory=Breaker)

    def is_asked(self) -> bool:
        """Somebody has a request open, or waits for his turn."""
        statistics = self.room.statistics()
        return bool(statistics.borrowed_tokens or statistics.tasks_waiting)


class Sources:
    """The way to all origins."""

    def __init__(
        self,
        patience: Patience,
        limits: Limits,
        pace: Paces,
        *,
        connections: int = 64,
        tracer: Tracer = UNTRACED,
        drivers: Drivers | None = None,
        guard: AddressGuard | None = None,
        others_are_here: bool = False,
    ) -> None:
        """
        Args:
            patience: Deadlines.
            limits: For each origin.
            pace: Of all that comes from any origin.
            connections: To all origins together.
            tracer: Hears of reads; origins hear nothing of it.
            drivers: The way to what is not HTTP's.
            guard: What a host has to itself, and may be asked all the same. Wishes and redirects are hostile;
                loopback is asked where an address names it, and nobody is sent on to it.
            others_are_here: All other hosts are on this machine, too, and its loopback is theirs.
        """
        self._guard = guard or AddressGuard()
        self._others_are_here = others_are_here
        self._drivers = drivers or Drivers()
        self._tracer = tracer
        self._pace = pace
        self._transport = DirectTransport(patience, connections, {}, self._check_address)
        self._limits = limits
        self._origins: Recent[Origin, _OriginState] = Recent(_ORIGINS, _OriginState.is_asked)

    async def aclose(self) -> None:
        """Close kept connections."""
        await self._transport.aclose()

    def set_limits(self, limits: Limits) -> None:
        """Hold from the next request on."""
        self._limits = limits
        for state in self._origins.values():
            state.room.total_tokens = limits.concurrency or _MANY
            state.requests.set_rate(limits.requests_per_s * _LIMITED_REQUESTS, trio.current_time())
            state.traffic.set_rate(limits.bytes_per_s, trio.current_time())

    @asynccontextmanager
    async def open(
        self,
        url: str,
        headers: Headers,
        first: int | None,
        last: int | None,
        guard: Guard | None,
        *,
        for_others: bool = False,
    ) -> AsyncIterator[SourceAnswer]:
        """Ask for the bytes [first, last] of a content (first None: for all of it, without a range).

        Args:
            guard: What earlier answers said; None: this is the first one.
            for_others: Another host named the address: this machine's loopback is not for it.

        Raises:
            OriginError: the answer is no.
            ChangedError: the content is another one by now.
            RemoteError, UnavailableError: there is no answer, or none of use.
        """
        if for_others:
            self._check_loopback(origin_of(url))
        state = self._state_of(url)
        with self._traced(url, first):
            async with _taken(state.room):
                await self._await_turn(state, url)
                exchange = None
                try:
                    if is_driven(url):
                        answer = await self._ask_driver(state, url, headers, first, last, guard)
                    else:
                        exchange = await self._request(state, url, _fields(headers, first, last, guard))
                        answer = await self._understand(exchange, state, first, last, guard)
                    yield answer
                finally:
                    state.breaker.note_given_up()
                    if exchange is not None:
                        with trio.CancelScope(shield=True):
                            await exchange.aclose()

    def has_room(self, url: str) -> bool:
        """Whether one more request to this origin need not wait for others of ours."""
        return self._state_of(url).room.available_tokens >= 1

    def _check_address(self, origin: Origin, address: str) -> None:
        _, host, port = origin
        if not _names_loopback(origin) and (why := self._guard.refusal(Authority(host, port or 80), address)):
            raise ForbiddenAddressError(why)

    def _check_loopback(self, origin: Origin) -> None:
        """Names that lead there are for ``_check_address``."""
        if self._others_are_here or not _names_loopback(origin):
            return
        _, host, port = origin
        address = "127.0.0.1" if host == "localhost" else host
        if why := self._guard.refusal(Authority(host, port or 80), address):
            raise ForbiddenAddressError(f"another host wants it, and {why}")

    @contextmanager
    def _traced(self, url: str, first: int | None) -> Iterator[None]:
        # Without path and query: those may let somebody in.
        with self._tracer.span(
            "cafs.source", origin=_name(url), first=first or 0, ranged=first is not None
        ) as span:
            try:
                yield
            except OriginError as e:
                span.note(status=e.status)
                raise

    def _state_of(self, url: str) -> _OriginState:
        origin = origin_of(url)
        found = self._origins.get(origin)
        if found is None:
            limits = self._limits
            found = _OriginState(
                trio.CapacityLimiter(limits.concurrency or _MANY),
                TokenBucket(limits.requests_per_s * _LIMITED_REQUESTS, trio.current_time()),
                TokenBucket(limits.bytes_per_s, trio.current_time()),
            )
            self._origins.put(origin, found)
        return found

    async def _await_turn(self, state: _OriginState, url: str) -> None:
        if (wait := state.breaker.wait_s(trio.current_time())) > 0:
            failing = state.breaker.is_failing
            why = "failed before" if failing else "asked us to"
            message = f"{_name(url)} is left alone for {wait:.1f} s, as it {why}"
            raise LeftAloneError(message, wait, failing=failing)
        if wait := state.requests.take(_LIMITED_REQUESTS, trio.current_time()):
            await trio.sleep(wait)

    async def _request(self, state: _OriginState, url: str, headers: Mapping[str, str]) -> Exchange:
        """Ask, and go where we are sent on to; credentials go to the first origin only."""
        seen: set[str] = set()
        here, first_origin = url, origin_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if origin_of(here) != first_origin:
                sent = {name: text for name, text in sent.items() if not is_secret_field(name)}
            exchange = await self._ask(state, here, sent)
            if exchange.status not in REDIRECTS or "location" not in exchange.headers:
                return exchange
            await exchange.aclose()
            seen.add(here)
            here = resolve_location(here, exchange.headers["location"], _name(url))
            if here in seen:
                raise ProtocolError(f"{_name(url)} sends us in a circle")
            if _names_loopback(origin_of(here)) and not _names_loopback(first_origin):
                raise ForbiddenAddressError(f"{_name(url)} sends us on to this machine itself")
        raise ProtocolError(f"{_name(url)} sends us on for ever")

    async def _ask_driver(  # noqa: PLR0917 - private, and all of it is handed on
        self,
        state: _OriginState,
        url: str,
        headers: Headers,
        first: int | None,
        last: int | None,
        guard: Guard | None,
    ) -> SourceAnswer:
        try:
            file = await self._drivers.open(url, headers)
            facts = await file.facts()
        except OriginError:
            state.breaker.note_answer()
            raise
        except RemoteError:
            state.breaker.note_failure(trio.current_time())
            raise
        state.breaker.note_answer()
        seen = Guard(facts.etag or None, facts.last_modified or None, facts.size)
        if guard is not None:
            check_unchanged(guard, seen, _name(url))
        if first is not None and first >= facts.size:
            told = (("content-range", f"bytes */{facts.size}"),)
            raise OriginError(f"the content has {facts.size} bytes only", 416, told, b"")
        begin, end = first or 0, min(facts.size if last is None else last + 1, facts.size)
        body = DrivenBody(file, facts, begin, end)
        return SourceAnswer(
            facts.headers, begin, end - 1, facts.size, True, seen, body, state.traffic, self._pace
        )

    async def _ask(self, state: _OriginState, url: str, headers: Mapping[str, str]) -> Exchange:
        origin = origin_of(url)
        if _is_literal(origin[1]):  # else it is looked at once there is a connection
            self._check_address(origin, origin[1])
        try:
            exchange = await self._transport.send("GET", url, headers, _name(url))
        except RemoteError:
            state.breaker.note_failure(trio.current_time())
            raise
        if exchange.status in {429, 503} and "retry-after" in exchange.headers:
            told = parse_retry_after(exchange.headers["retry-after"], time.time())
            state.breaker.note_told_to_wait(trio.current_time(), told or 0.0)
        elif exchange.status >= 500:
            state.breaker.note_failure(trio.current_time())
        else:
            state.breaker.note_answer()
        return exchange

    async def _understand(
        self,
        exchange: Exchange,
        state: _OriginState,
        first: int | None,
        last: int | None,
        guard: Guard | None,
    ) -> SourceAnswer:
        if exchange.status not in {200, 206}:
            raise await _refusal(exchange)
        headers = tuple(exchange.headers.items())
        start, end, total = _extent(exchange, first)
        seen = Guard(exchange.headers.get("etag"), exchange.headers.get("last-modified"), total)
        if guard is not None:
            check_unchanged(guard, seen, _name(exchange.url))
        if exchange.status == 206 and last is not None and end is not None and end > last:
            raise ProtocolError(f"{_name(exchange.url)} sent more than it was asked for")
        ranges = exchange.status == 206 or (
            first is None and exchange.headers.get("accept-ranges", "").lower() == "bytes"
        )
        return SourceAnswer(headers, start, end, total, ranges, seen, exchange, state.traffic, self._pace)


@asynccontextmanager
async def _taken(room: trio.CapacityLimiter) -> AsyncIterator[None]:
    """A token of one's own: one task may have several requests open."""
    owner = object()
    await room.acquire_on_behalf_of(owner)
    try:
        yield
    finally:
        room.release_on_behalf_of(owner)


def _fields(headers: Headers, first: int | None, last: int | None, guard: Guard | None) -> dict[str, str]:
    fields: dict[str, str] = {"Accept-Encoding": "identity", "User-Agent": "cafs", "Accept": "*/*"}
    theirs = {name.title() for name, _ in headers}
    fields = {name: text for name, text in fields.items() if name not in theirs or name == "Accept-Encoding"}
    for name, value in headers:
        if name.lower() not in _OURS and not name.lower().startswith("if-"):
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if first is not None:
        fields["Range"] = f"bytes={first}-{'' if last is None else last}"
        if guard is not None and guard.validator is not None:
            fields["If-Range"] = guard.validator
    return fields


def _extent(exchange: Exchange, first: int | None) -> tuple[int, int | None, int | None]:
    """First and last byte of what comes, and the length of all."""
    if exchange.status == 200:
        length = exchange.headers.get("content-length", "")
        total = int(length) if length.isdecimal() else None
        return 0, None if total is None else total - 1, total
    said = parse_content_range(exchange.headers.get("content-range", ""))
    if said is None or said.first != first:
        raise ProtocolError(f"{_name(exchange.url)} answered with another range than it was asked for")
    return said.first, said.last, said.total


def check_unchanged(guard: Guard, seen: Guard, name: str) -> None:
    """
    Raises:
        ChangedError: both cannot be about the same content.
    """
    pairs = (
        (guard.etag, seen.etag),
        (guard.last_modified, seen.last_modified),
        (guard.content_bytes, seen.content_bytes),
    )
    if any(before is not None and now is not None and before != now for before, now in pairs):
        raise ChangedError(f"{name}: the content changed under way")


async def _refusal(exchange: Exchange) -> CafsError:
    """The origin's answer, to be passed on whole."""
    body = bytearray()
    while len(body) < MAX_ERROR_BYTES and (data := await exchange.receive()):
        body += data
    headers = tuple(exchange.headers.items())
    error = OriginError(
        f"{_name(exchange.url)} answered {exchange.status} {exchange.reason}".strip(),
        exchange.status,
        headers,
        bytes(body[:MAX_ERROR_BYTES]),
    )
    error.retry_after_s = parse_retry_after(exchange.headers.get("retry-after"), time.time())
    return error


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _names_loopback(origin: Origin) -> bool:
    host = origin[1]
    return is_loopback(f"[{host}]" if ":" in host else host)


def _name(url: str) -> str:
    """For messages: no path, no query, no credentials."""
    scheme, host, port = origin_of(url)
    return f"{scheme}://{host}" + (f":{port}" if port not in {None, 80, 443} else "")
