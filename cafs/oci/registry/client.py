"""The thin shell: HTTP/1.1 to one registry on httpx and trio. Decisions are in the pure modules beside it.

Owns the connection pool. One call is one request that was answered with an expected status: credentials
were shown when asked for, redirects followed without them, everything else became an error that names
host and repository. Any call may be cancelled at any time; its connection is then closed.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import httpx2 as httpx

from cafs import __version__
from cafs.core.settings import Settings
from cafs.errors import AuthError, CafsError, DeadlineError, ProtocolError, RemoteError
from cafs.oci.reference import DOCKER_HUB
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
_HUB_HOST = "registry-1.docker.io"

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


class RegistryClient:
    """Connections and credentials for one host."""

    def __init__(self, host: str, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._scheme, self._guessed = _scheme_for(host, settings.insecure_registries)
        self._auth = Authenticator(f"registry {host}", lambda: load_credentials(host), self._fetch_token)
        connections = settings.fetch_concurrency + _SPARE_CONNECTIONS
        self._http = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=httpx.Timeout(
                settings.stall_timeout_s, connect=settings.connect_timeout_s, pool=settings.read_deadline_s
            ),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEEPALIVE_S,
            ),
            headers={"User-Agent": f"cafs/{__version__}", "Accept-Encoding": "identity"},
            trust_env=not _is_loopback(host),
        )

    @property
    def base(self) -> str:
        """The registry's address."""
        return f"{self._scheme}://{_HUB_HOST if self._host == DOCKER_HUB else self._host}"

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
            await response.aclose()
            with suppress(httpx.TransportError, httpx.StreamError):
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
        if response.status_code == 400 and self._speaks_tls(await self._peek(response, request)):
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
        url = resolve_location(self.base, request.url, request.what)
        for _ in range(_MAX_REDIRECTS):
            response = await self._send_once(stack, request, url, authorization)
            redirected = response.status_code in REDIRECTS and request.method in {"GET", "HEAD"}
            if not redirected or response.status_code in request.expect:
                return response
            url = resolve_location(url, response.headers.get("location", ""), request.what)
            await response.aclose()
        raise ProtocolError(f"{request.what}: more than {_MAX_REDIRECTS} redirects")

    async def _send_once(
        self, stack: AsyncExitStack, request: Request, url: str, authorization: str | None
    ) -> httpx.Response:
        headers = dict(request.headers)
        if authorization and origin_of(url) == origin_of(self.base):
            headers["Authorization"] = authorization
        content = request.body() if callable(request.body) else request.body
        with self.translated(request.what):
            built = self._http.build_request(request.method, url, headers=headers, content=content)
            response = await self._http.send(built, stream=True)
        stack.push_async_callback(response.aclose)
        return response

    def _speaks_tls(self, body: bytes) -> bool:
        """Go's and nginx's servers say so in clear text; only believed of loopback, where we guessed."""
        return self._guessed and b"HTTPS" in body

    async def _peek(self, response: httpx.Response, request: Request) -> bytes:
        return await self.read_body(response, MAX_ERROR_BODY, request.what) if self._guessed else b""

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
            raise DeadlineError(f"{what}: no bytes for {settings.stall_timeout_s:g} s") from e
        except httpx.RemoteProtocolError as e:
            raise ProtocolError(f"{what}: {_one_line(e)}") from e
        except httpx.TransportError as e:
            raise RemoteError(f"{what}: {_one_line(e) or type(e).__name__}") from e
        except httpx.InvalidURL as e:
            raise ProtocolError(f"{what}: not an address") from e


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _scheme_for(host: str, insecure: tuple[str, ...]) -> tuple[str, bool]:
    """Scheme, and whether it is only a guess: loopback is plain HTTP unless it turns out to speak TLS."""
    if host in insecure or _hostname(host) in insecure:
        return "http", False
    if _is_loopback(host):
        return "http", True
    return "https", False


def _hostname(host: str) -> str:
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host


def _is_loopback(host: str) -> bool:
    name = _hostname(host).strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
