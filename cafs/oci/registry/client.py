"""The thin shell: HTTP/1.1 to one registry. Decisions are in the pure modules beside it.

Owns both transports (``exchange``). One call is one request that was answered with an expected status:
credentials were shown when asked for, redirects followed without them, everything else became an error that
names host and repository. Any call may be cancelled at any time; its connection is then closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode

import trio

from cafs import __version__
from cafs.core.settings import Settings
from cafs.errors import AuthError, CafsError, DeadlineError, ProtocolError, RemoteError
from cafs.oci.registry.address import address_of, is_loopback, scheme_for
from cafs.oci.registry.answers import (
    MAX_ERROR_BODY,
    REDIRECTS,
    error_of,
    origin_of,
    parse_retry_after,
    resolve_location,
)
from cafs.oci.registry.auth import Authenticator, Refused, Scopes, Sources, TokenRequest
from cafs.oci.registry.challenge import MAX_TOKEN_ANSWER, parse_challenges
from cafs.oci.registry.credentials import docker_sources
from cafs.oci.registry.direct import DirectTransport
from cafs.oci.registry.exchange import CONNECTIONS_BESIDE_RANGES, Exchange, Patience
from cafs.oci.registry.library import Content, LibraryTransport, needs_proxy

_MAX_REDIRECTS = 5
_MAX_LOGINS = 8
_LOCATED_FOR_S = 60.0
"""Signed addresses are good for minutes at least; when one is not, the registry is asked again."""
_MAX_LOCATED = 1000
_READS = frozenset(("GET", "HEAD"))

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the registry."""

    method: str
    url: str
    """A path below the registry, or an address that the registry gave."""
    what: str
    """Names host, repository and purpose in errors."""
    scopes: Scopes
    expect: frozenset[int]
    """Statuses that are handed to the caller; every other becomes an error."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Content = None
    answer_within_s: float | None = None
    """How long the registry may think before it answers; None: as long as it may be silent anyway."""


@dataclass(frozen=True, slots=True)
class _Located:
    """Where a redirect led, for a while."""

    url: str
    until: float
    """On trio's clock."""


class RegistryClient:
    """Connections and credentials for one host."""

    def __init__(self, host: str, settings: Settings, sources: Sources | None = None) -> None:
        """``sources`` says where credentials are looked for; by default in Docker's configuration."""
        self._host = host
        self._settings = settings
        self._scheme, self._guessed = scheme_for(host, settings.insecure_registries)
        sources = sources or (lambda: docker_sources(host))
        self._auth = Authenticator(f"registry {host}", sources, self._fetch_token)
        self._located: dict[str, _Located] = {}
        connections = settings.fetch_concurrency + CONNECTIONS_BESIDE_RANGES
        patience = Patience.from_settings(settings)
        headers = {"User-Agent": f"cafs/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        self._trust_env = not is_loopback(host)
        self._direct = DirectTransport(patience, connections, headers)
        self._library = LibraryTransport(patience, connections, headers, trust_env=self._trust_env)

    @property
    def base(self) -> str:
        """The registry's address."""
        return f"{self._scheme}://{address_of(self._host)}"

    async def authorization(self, scopes: tuple[str, ...]) -> str | None:
        """The header with which the registry lets us in, as far as it has asked for one by now.

        Raises:
            AuthError: none is to be had.
        """
        return await self._auth.header(scopes)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()
        await self._library.aclose()

    async def with_connections_for(self, count: int, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and meanwhile open connections for what is asked next: ``count`` questions at once.

        A connection takes a round trip to the registry, in TLS two or three, for which they would wait.
        Raises what ``ask`` does.
        """
        failure: CafsError | None = None
        async with trio.open_nursery() as nursery:
            for _ in range(count - 1 if self._is_direct(self.base) else 0):
                nursery.start_soon(self._direct.open_early, self.base)
            try:
                answer = await ask()
            except CafsError as e:  # let out of the nursery without a group round it
                failure = e
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return answer

    async def call(self, request: Request, limit: int = MAX_ERROR_BODY) -> tuple[Exchange, bytes]:
        """A request whose answer is small: its head and its whole body of at most ``limit`` bytes."""
        exchange = await self._send_authenticated(request)
        try:
            return exchange, await _read_body(exchange, limit, request.what)
        finally:
            await exchange.aclose()

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[Exchange]:
        """A request whose body the caller reads; leaving before its end closes the connection."""
        exchange = await self._send_authenticated(request)
        try:
            yield exchange
        finally:
            await exchange.aclose()

    async def _send_authenticated(self, request: Request) -> Exchange:
        header = await self._auth.header(request.scopes)
        exchange = await self._send(request, header)
        if exchange.status == 400 and self._guessed and await self._speaks_tls(exchange, request.what):
            self._scheme, self._guessed = "https", False
            exchange = await self._send(request, header)
        refused = Refused()
        while exchange.status not in request.expect:
            header = await self._log_in_again(exchange, request, header, refused)
            exchange = await self._send(request, header)
        return exchange

    async def _log_in_again(
        self, exchange: Exchange, request: Request, shown: str | None, refused: Refused
    ) -> str:
        """Another header for a request that was refused, or the error that the answer is.

        Credentials expire while a mount lives: 401 for a token's end, with some registries 403 for a
        password's. It ends because each round spends a header or credentials, and both are few.
        """
        # The answer is read whole, so that its connection serves the next attempt.
        failure = await _failure(exchange, request.what)
        ours = origin_of(exchange.url) == origin_of(self.base)
        forbidden = exchange.status == 403 and shown is not None
        if not ours or not (exchange.status == 401 or forbidden) or len(refused.headers) >= _MAX_LOGINS:
            raise failure
        says_more = forbidden or refused.new
        refused.headers.append(shown or "")
        challenges = [] if forbidden else parse_challenges(exchange.headers.get("www-authenticate", ""))
        try:
            return await self._auth.answer(
                challenges, request.scopes, refused, plain_http=self._scheme == "http"
            )
        except AuthError as e:
            raise (failure if says_more else e) from e

    async def _send(self, request: Request, authorization: str | None) -> Exchange:
        """Send, and follow redirects of reads. Credentials go to the registry's own origin only."""
        url = asked = resolve_location(self.base, request.url, request.what)
        if (known := await self._send_to_known(request, asked)) is not None:
            return known
        for _ in range(_MAX_REDIRECTS):
            exchange = await self._send_once(request, url, authorization)
            redirected = exchange.status in REDIRECTS and request.method in _READS
            if not redirected or exchange.status in request.expect:
                self._remember(request, asked, url, exchange.status)
                return exchange
            await exchange.aclose()
            url = resolve_location(url, exchange.headers.get("location", ""), request.what)
        raise ProtocolError(f"{request.what}: more than {_MAX_REDIRECTS} redirects")

    async def _send_to_known(self, request: Request, asked: str) -> Exchange | None:
        """Registries send every range request on to their storage: a blob's second one goes there at once.

        None when nothing is known, or it is stale by now: then the registry is asked again.
        """
        known = self._located.get(asked) if request.method == "GET" else None
        if known is None or known.until < trio.current_time():
            return None
        try:
            exchange = await self._send_once(request, known.url, None)
        except RemoteError as e:
            self._located.pop(asked, None)
            if isinstance(e, DeadlineError):
                raise  # there is no time left to look elsewhere
            return None
        if exchange.status in request.expect:
            return exchange
        self._located.pop(asked, None)
        await exchange.aclose()
        return None

    def _remember(self, request: Request, asked: str, url: str, status: int) -> None:
        if request.method != "GET" or origin_of(url) == origin_of(asked) or status not in request.expect:
            return
        if len(self._located) >= _MAX_LOCATED:
            self._located.clear()
        self._located[asked] = _Located(url, trio.current_time() + _LOCATED_FOR_S)

    async def _send_once(self, request: Request, url: str, authorization: str | None) -> Exchange:
        headers = request.headers
        if authorization and origin_of(url) == origin_of(self.base):
            headers = {**headers, "Authorization": authorization}
        what = request.what
        if request.method in _READS and request.body is None and self._is_direct(url):
            return await self._direct.send(request.method, url, headers, what)
        return await self._library.send(
            request.method,
            url,
            headers,
            what,
            content=request.body,
            answer_within_s=request.answer_within_s or 0.0,
        )

    def _is_direct(self, url: str) -> bool:
        return not (self._trust_env and needs_proxy(url))

    async def _speaks_tls(self, refused: Exchange, what: str) -> bool:
        """Whether our guess of plain HTTP on loopback was wrong: Go's and nginx's servers answer in clear
        text that they want HTTPS. Asked by GET, since an answer to HEAD has no body. Closes ``refused`` if
        so, or when it cannot be found out."""
        speaks = True
        try:
            probe = Request("GET", "/v2/", what, (), frozenset())
            exchange = await self._send_once(probe, f"{self.base}/v2/", None)
            try:
                speaks = b"HTTPS" in await _read_body(exchange, MAX_ERROR_BODY, what)
            finally:
                await exchange.aclose()
            return speaks
        finally:
            if speaks:
                await refused.aclose()

    async def _fetch_token(self, wanted: TokenRequest) -> bytes:
        what = f"registry {self._host}: token server {origin_of(wanted.url)[1]}"
        headers = {"Authorization": wanted.authorization} if wanted.authorization else {}
        exchange: Exchange
        if wanted.form is None and self._is_direct(wanted.url):
            exchange = await self._direct.send("GET", _with_query(wanted), headers, what)
        else:
            method = "POST" if wanted.form else "GET"
            exchange = await self._library.send(
                method, _with_query(wanted), headers, what, content=wanted.form
            )
        if exchange.status == 200:
            try:
                return await _read_body(exchange, MAX_TOKEN_ANSWER, what)
            finally:
                await exchange.aclose()
        error = await _failure(exchange, what)
        if 400 <= exchange.status < 500 and exchange.status != 429:
            hint = "" if wanted.authorization or wanted.form else "; log in with `docker login` first"
            raise AuthError(f"{error}{hint}")
        raise error


def _with_query(wanted: TokenRequest) -> str:
    if not wanted.query:
        return wanted.url
    base = wanted.url.partition("#")[0]
    return f"{base}{'&' if '?' in base else '?'}{urlencode(list(wanted.query))}"


async def _read_body(exchange: Exchange, limit: int, what: str) -> bytes:
    """A body of at most ``limit`` bytes; more is a ProtocolError."""
    pieces, seen = [], 0
    while piece := await exchange.receive():
        seen += len(piece)
        if seen > limit:
            raise ProtocolError(f"{what}: answered with more than the {limit} bytes allowed")
        pieces.append(piece)
    return b"".join(pieces)


async def _failure(exchange: Exchange, what: str) -> CafsError:
    """The error for an unexpected answer, which is read and closed."""
    body = b""
    try:
        body = await _read_body(exchange, MAX_ERROR_BODY, what)
    except RemoteError as e:
        log.debug("body of an error could not be read: %s", e)
    finally:
        await exchange.aclose()
    wait = parse_retry_after(exchange.headers.get("retry-after"), time.time())
    return error_of(exchange.status, exchange.reason, body, what, wait)
