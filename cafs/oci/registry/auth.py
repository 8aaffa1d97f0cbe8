"""Who we are to one registry: the Authorization header for each scope, kept until it is stale.

A task that meets 401 asks for a new header; tasks that meet it at the same time wait for that one and
share it. Cancelling a waiter cancels only its own turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from cafs.errors import AuthError, IntegrityError, ProtocolError
from cafs.oci.registry.challenge import (
    AskToken,
    Challenge,
    Credentials,
    check_realm,
    merge_scopes,
    parse_token,
    plan_answer,
)

_CLIENT_ID = "cafs"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request to a token server: a GET with ``query``, or a POST of ``form``."""

    url: str
    query: Sequence[tuple[str, str]] = ()
    form: Mapping[str, str] | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Header:
    value: str = field(repr=False)
    stale_at: float
    """On trio's clock."""


Scopes = tuple[str, ...]
Send = Callable[[TokenRequest], Awaitable[bytes]]
Load = Callable[[], Awaitable[Credentials | None]]


class Authenticator:
    """Keeps one header for each set of scopes. For use from one trio thread."""

    def __init__(self, name: str, load_credentials: Load, send: Send) -> None:
        """``send`` does one request to a token server; ``load_credentials`` is asked for each new header."""
        self._name = name
        self._load = load_credentials
        self._send = send
        self._headers: dict[Scopes, _Header] = {}
        self._ask: AskToken | None = None
        self._plain_http = False
        self._lock = trio.Lock()

    async def header(self, scopes: Scopes) -> str | None:
        """The header to send; None as long as the registry has not asked for any."""
        known = self._headers.get(scopes)
        if known and known.stale_at > trio.current_time():
            return known.value
        if self._ask is None:
            return None
        async with self._lock:
            known = self._headers.get(scopes)
            if known and known.stale_at > trio.current_time():
                return known.value
            return await self._get_token(self._ask, scopes, await self._load())

    async def answer(
        self, challenges: Sequence[Challenge], scopes: Scopes, refused: str | None, *, plain_http: bool
    ) -> str:
        """A new header after the registry refused the one called ``refused``.

        Raises:
            AuthError: there is none.
        """
        async with self._lock:
            known = self._headers.get(scopes)
            if known and known.value != refused:
                return known.value  # another task has just got it
            self._headers.pop(scopes, None)
            self._plain_http = plain_http
            credentials = await self._load()
            plan = plan_answer(challenges, credentials, self._name)
            if isinstance(plan, AskToken):
                self._ask = plan
                return await self._get_token(plan, scopes, credentials)
            if plan == refused:
                raise AuthError(f"{self._name} refused our credentials: log in again")
            self._headers[scopes] = _Header(plan, float("inf"))
            return plan

    async def _get_token(self, ask: AskToken, scopes: Scopes, credentials: Credentials | None) -> str:
        realm = check_realm(ask.realm, plain_http=self._plain_http, name=self._name)
        content = await self._send(_token_request(realm, ask, scopes, credentials))
        try:
            token = parse_token(content, f"the token server's answer for {self._name}")
        except IntegrityError as e:
            raise ProtocolError(str(e)) from e
        header = _Header("Bearer " + token.value, trio.current_time() + token.use_for_s)
        self._headers[scopes] = header
        return header.value


def _token_request(
    realm: str, ask: AskToken, scopes: Scopes, credentials: Credentials | None
) -> TokenRequest:
    merged = merge_scopes(scopes, ask.scope)
    if credentials and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": ask.service,
            "client_id": _CLIENT_ID,
            "scope": " ".join(merged),
            "refresh_token": credentials.identity_token,
        }
        return TokenRequest(realm, form=form)
    query = [("service", ask.service)] if ask.service else []
    query += [("scope", scope) for scope in merged]
    basic = credentials.basic if credentials and credentials.username else None
    return TokenRequest(realm, query, authorization=basic)
