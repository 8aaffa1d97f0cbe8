"""Requests through httpx: what has a body, and whatever goes through a proxy.

httpx knows proxies, streamed bodies and forms; it costs a tenth of a second to load, and a millisecond of
processor time for each request. So it is loaded by the first request that needs it, and hardly a mount's
does. Used by ``RegistryClient``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from cafs.errors import ProtocolError, RemoteError
from cafs.oci.registry.exchange import KEEPALIVE_S, Patience, one_line

if TYPE_CHECKING:
    import httpx2 as httpx

_CLOSE_S = 2
"""Closing waits for nobody but the kernel; the bound is for what we did not think of."""

Body = Callable[[], AsyncIterator[bytes]]
"""Makes a request's body anew for each attempt."""
Content = Body | bytes | Mapping[str, str] | None
"""A body, or the fields of a form."""


def needs_proxy(url: str) -> bool:
    """Whether the environment wants this address to be asked through a proxy."""
    scheme, _, rest = url.partition("://")
    names = (f"{scheme}_proxy", "all_proxy")
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in names):
        return False
    # Heavy, and only those behind a proxy need it.
    from urllib.request import proxy_bypass  # noqa: PLC0415

    return not proxy_bypass(rest.partition("/")[0].rpartition("@")[2])


class LibraryTransport:
    """An httpx client, made when it is first needed."""

    def __init__(
        self, patience: Patience, connections: int, headers: Mapping[str, str], *, trust_env: bool
    ) -> None:
        """
        Args:
            patience: Bounds of time.
            connections: At most so many at once.
            headers: Sent with every request.
            trust_env: Go through the proxies that the environment names.
        """
        self._patience = patience
        self._connections = connections
        self._headers = dict(headers)
        self._trust_env = trust_env
        self._made: httpx.AsyncClient | None = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        what: str,
        *,
        content: Content = None,
        answer_within_s: float = 0.0,
    ) -> LibraryExchange:
        """Ask; returns when the head of the answer is here.

        Raises:
            DeadlineError, ProtocolError, RemoteError: no answer, and why.
        """
        client = self._client()
        body = content() if callable(content) else content if isinstance(content, bytes) else None
        with _translated(what, self._patience):
            request = client.build_request(
                method,
                url,
                headers=dict(headers),
                content=body,
                data=dict(content) if isinstance(content, Mapping) else None,
                timeout=self._timeout(answer_within_s),
            )
            response = await client.send(request, stream=True)
        return LibraryExchange(response, what, self._patience)

    async def aclose(self) -> None:
        """Close all connections. Whoever asks after that has new ones made."""
        made, self._made = self._made, None
        if made is not None:
            await made.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            import httpx2 as httpx  # noqa: PLC0415 - see the module's docstring

            self._made = httpx.AsyncClient(
                verify=ssl.create_default_context(),
                limits=httpx.Limits(
                    max_connections=self._connections,
                    max_keepalive_connections=self._connections,
                    keepalive_expiry=KEEPALIVE_S,
                ),
                headers=self._headers,
                trust_env=self._trust_env,
            )
        return self._made

    def _timeout(self, answer_within_s: float) -> httpx.Timeout:
        import httpx2 as httpx  # noqa: PLC0415 - loaded by now

        patience = self._patience
        return httpx.Timeout(
            patience.stall_s,
            read=max(patience.stall_s, answer_within_s),
            connect=patience.connect_s,
            pool=patience.room_s,
        )


class LibraryExchange:
    """See ``Exchange``."""

    def __init__(self, response: httpx.Response, what: str, patience: Patience) -> None:
        self._response = response
        self._what = what
        self._patience = patience
        self._pieces: AsyncIterator[bytes] | None = None
        self.status = response.status_code
        self.reason = response.reason_phrase
        self.url = str(response.url)
        self.headers: Mapping[str, str] = {
            name.lower(): ", ".join(response.headers.get_list(name)) for name in response.headers
        }

    async def receive(self) -> bytes:
        """See ``Exchange``."""
        if self._pieces is None:
            self._pieces = self._response.aiter_raw()
        with _translated(self._what, self._patience):
            async for piece in self._pieces:
                if piece:
                    return piece
        return b""

    async def aclose(self) -> None:
        """See ``Exchange``.

        Behind the iterator stands a chain of generators inside httpx, none of which closes the next. Only
        running to their end, over a connection that is closed, ends them here and now.
        """
        import httpx2 as httpx  # noqa: PLC0415 - loaded by now

        with trio.move_on_after(_CLOSE_S, shield=True), suppress(httpx.TransportError, httpx.StreamError):
            await self._response.aclose()
            if self._pieces is not None:
                async for _ in self._pieces:
                    pass


@contextmanager
def _translated(what: str, patience: Patience) -> Iterator[None]:
    """httpx's errors as ours. No message of httpx is passed on that could hold an address."""
    import httpx2 as httpx  # noqa: PLC0415 - loaded by now

    try:
        yield
    except httpx.ConnectTimeout as e:
        raise patience.no_connection(what) from e
    except httpx.PoolTimeout as e:
        raise patience.no_room(what) from e
    except httpx.TimeoutException as e:
        raise patience.silence(what) from e
    except httpx.RemoteProtocolError as e:
        raise ProtocolError(f"{what}: {one_line(e)}") from e
    except httpx.TransportError as e:
        raise RemoteError(f"{what}: {one_line(e)}") from e
    except httpx.InvalidURL as e:
        raise ProtocolError(f"{what}: not an address") from e
