"""The thin shell: HTTP/1.1 to one registry on httpx and trio. Decisions are in the pure modules beside it.

Owns the connection pool. One call is one request that was answered with an expected status: credentials
were shown when asked for, redirects followed without them, everything else became an error that names
host and repository. Any call may be cancelled at any time; its connection is then closed.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import httpx2 as httpx
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
from cafs.oci.registry.auth import Authenticator, Scopes, TokenRequest
from cafs.oci.registry.challenge import MAX_TOKEN_ANSWER, parse_challenges
from cafs.oci.registry.credentials import load_credentials

_MAX_REDIRECTS = 5
_SPARE_CONNECTIONS = 8
_KEEPALIVE_S = 60
_LOCATED_FOR_S = 60.0
"""Signed addresses are good for minutes at least; when one is not, the registry is asked again."""
_MAX_LOCATED = 1000
_MAX_CAUSES = 8
_CLOSE_S = 2
"""Closing waits for nobody but the kernel; the bound is for what we did not think of."""

log = logging.getLogger(__name__)

Body = Callable[[], AsyncIterator[bytes]]
"""Makes a request's body anew for each attempt."""


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
    body: Body | bytes | None = None
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

    def __init__(self, host: str, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._scheme, self._guessed = scheme_for(host, settings.insecure_registries)
        self._auth = Authenticator(f"registry {host}", lambda: load_credentials(host), self._fetch_token)
        self._located: dict[str, _Located] = {}
        connections = settings.fetch_concurrency + _SPARE_CONNECTIONS
        self._http = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=httpx.Timeout(settings.stall_timeout_s, connect=settings.connect_timeout_s),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEEPALIVE_S,
            ),
            headers={"User-Agent": f"cafs/{__version__}", "Accept-Encoding": "identity"},
            trust_env=not is_loopback(host),
        )

    @property
    def base(self) -> str:
        """The registry's address."""
        return f"{self._scheme}://{address_of(self._host)}"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(self, request: Request, limit: int = MAX_ERROR_BODY) -> tuple[httpx.Response, bytes]:
        """A request whose answer is small: the response and its whole body of at most ``limit`` bytes."""
        async with self.stream(request) as response:
            return response, await self.read_body(response, limit, request.what)

    async def read_body(self, response: httpx.Response, limit: int, what: str) -> bytes:
        """A body of at most ``limit`` bytes; more is a ProtocolError."""
        pieces, seen = [], 0
        async with self.raw_pieces(response, what) as raw:
            async for piece in raw:
                seen += len(piece)
                if seen > limit:
                    raise ProtocolError(f"{what}: answered with more than the {limit} bytes allowed")
                pieces.append(piece)
        return b"".join(pieces)

    @asynccontextmanager
    async def raw_pieces(self, response: httpx.Response, what: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The body as it comes; leaving early closes the connection.

        Behind this iterator stands a chain of generators inside the HTTP library, none of which closes the
        next. Only running to their end, over a connection that is closed, ends them here and now.
        """
        raw = response.aiter_raw()
        try:
            with self.translated(what):
                yield raw
        finally:
            with trio.move_on_after(_CLOSE_S, shield=True), suppress(httpx.TransportError, httpx.StreamError):
                await response.aclose()
                async for _ in raw:
                    pass

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[httpx.Response]:
        """A request whose body the caller reads with ``raw_pieces`` or ``read_body``."""
        async with AsyncExitStack() as stack:
            yield await self._send_authenticated(stack, request)

    async def _send_authenticated(self, stack: AsyncExitStack, request: Request) -> httpx.Response:
        header = await self._auth.header(request.scopes)
        response = await self._send(stack, request, header)
        if response.status_code == 400 and self._guessed and await self._speaks_tls(stack, request):
            self._scheme, self._guessed = "https", False
            response = await self._send(stack, request, header)
        if response.status_code == 401 and origin_of(str(response.url)) == origin_of(self.base):
            challenges = parse_challenges(", ".join(response.headers.get_list("www-authenticate")))
            await response.aclose()
            plain_http = self._scheme == "http"
            header = await self._auth.answer(challenges, request.scopes, header, plain_http=plain_http)
            response = await self._send(stack, request, header)
        if response.status_code not in request.expect:
            raise await self._failure(response, request)
        return response

    async def _send(
        self, stack: AsyncExitStack, request: Request, authorization: str | None
    ) -> httpx.Response:
        """Send, and follow redirects of reads. Credentials go to the registry's own origin only."""
        url = asked = resolve_location(self.base, request.url, request.what)
        if (known := await self._send_to_known(stack, request, asked)) is not None:
            return known
        for _ in range(_MAX_REDIRECTS):
            response = await self._send_once(stack, request, url, authorization)
            redirected = response.status_code in REDIRECTS and request.method in {"GET", "HEAD"}
            if not redirected or response.status_code in request.expect:
                self._remember(request, asked, url, response.status_code)
                return response
            url = resolve_location(url, response.headers.get("location", ""), request.what)
            await response.aclose()
        raise ProtocolError(f"{request.what}: more than {_MAX_REDIRECTS} redirects")

    async def _send_to_known(
        self, stack: AsyncExitStack, request: Request, asked: str
    ) -> httpx.Response | None:
        """Registries send every range request on to their storage: a blob's second one goes there at once.

        None when nothing is known, or it is stale by now: then the registry is asked again.
        """
        known = self._located.get(asked) if request.method == "GET" else None
        if known is None or known.until < trio.current_time():
            return None
        response = await self._send_once(stack, request, known.url, None)
        if response.status_code in request.expect:
            return response
        del self._located[asked]
        await response.aclose()
        return None

    def _remember(self, request: Request, asked: str, url: str, status: int) -> None:
        if request.method != "GET" or origin_of(url) == origin_of(asked) or status not in request.expect:
            return
        if len(self._located) >= _MAX_LOCATED:
            self._located.clear()
        self._located[asked] = _Located(url, trio.current_time() + _LOCATED_FOR_S)

    async def _send_once(
        self, stack: AsyncExitStack, request: Request, url: str, authorization: str | None
    ) -> httpx.Response:
        headers = dict(request.headers)
        if authorization and origin_of(url) == origin_of(self.base):
            headers["Authorization"] = authorization
        content = request.body() if callable(request.body) else request.body
        with self.translated(request.what):
            built = self._http.build_request(
                request.method, url, headers=headers, content=content, timeout=self._timeout(request)
            )
            response = await self._http.send(built, stream=True)
        stack.push_async_callback(response.aclose)
        return response

    def _timeout(self, request: Request) -> httpx.Timeout:
        settings = self._settings
        return httpx.Timeout(
            settings.stall_timeout_s,
            read=max(settings.stall_timeout_s, request.answer_within_s or 0.0),
            connect=settings.connect_timeout_s,
            pool=settings.read_deadline_s,
        )

    async def _speaks_tls(self, stack: AsyncExitStack, request: Request) -> bool:
        """Whether our guess of plain HTTP on loopback was wrong: Go's and nginx's servers answer in clear
        text that they want HTTPS. Asked by GET, since an answer to HEAD has no body."""
        probe = Request("GET", "/v2/", request.what, (), frozenset())
        response = await self._send_once(stack, probe, f"{self.base}/v2/", None)
        return b"HTTPS" in await self.read_body(response, MAX_ERROR_BODY, request.what)

    async def _failure(self, response: httpx.Response, request: Request) -> CafsError:
        body = b""
        try:
            if not response.is_stream_consumed:
                body = await self.read_body(response, MAX_ERROR_BODY, request.what)
        except RemoteError as e:
            log.debug("body of an error could not be read: %s", e)
        wait = parse_retry_after(response.headers.get("retry-after"), time.time())
        return error_of(response.status_code, response.reason_phrase, body, request.what, wait)

    async def _fetch_token(self, wanted: TokenRequest) -> bytes:
        what = f"registry {self._host}: token server {origin_of(wanted.url)[1]}"
        headers = {"Authorization": wanted.authorization} if wanted.authorization else {}
        with self.translated(what):
            built = self._http.build_request(
                "POST" if wanted.form else "GET",
                httpx.URL(wanted.url).copy_merge_params(list(wanted.query)) if wanted.query else wanted.url,
                data=wanted.form,
                headers=headers,
            )
            response = await self._http.send(built, stream=True)
        try:
            if response.status_code == 200:
                return await self.read_body(response, MAX_TOKEN_ANSWER, what)
            body = await self.read_body(response, MAX_ERROR_BODY, what)
        finally:
            await response.aclose()
        if 400 <= response.status_code < 500 and response.status_code != 429:
            hint = "" if wanted.authorization or wanted.form else "; log in with `docker login` first"
            error = error_of(response.status_code, response.reason_phrase, body, what, None)
            raise AuthError(f"{error}{hint}")
        wait = parse_retry_after(response.headers.get("retry-after"), time.time())
        raise error_of(response.status_code, response.reason_phrase, body, what, wait)

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """httpx's errors as ours. No message of httpx is passed on that could hold an address."""
        settings = self._settings
        try:
            yield
        except httpx.ConnectTimeout as e:
            raise DeadlineError(f"{what}: no connection within {settings.connect_timeout_s:g} s") from e
        except httpx.PoolTimeout as e:
            raise DeadlineError(f"{what}: no free connection within {settings.read_deadline_s:g} s") from e
        except httpx.TimeoutException as e:
            raise DeadlineError(f"{what}: the registry was silent for {settings.stall_timeout_s:g} s") from e
        except httpx.RemoteProtocolError as e:
            raise ProtocolError(f"{what}: {_one_line(e)}") from e
        except httpx.TransportError as e:
            raise RemoteError(f"{what}: {_one_line(e)}") from e
        except httpx.InvalidURL as e:
            raise ProtocolError(f"{what}: not an address") from e


def _one_line(error: Exception) -> str:
    """What went wrong: the HTTP library's error often says nothing, but one of its causes does."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None or str(cause):
            break
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(cause or type(error).__name__).split())[:200]
