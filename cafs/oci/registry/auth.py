"""Who we are to one repository: the Authorization header for each scope, kept until it is stale.

A task that meets 401 asks for a new header; tasks that meet it at the same time wait for that one and
share it. Cancelling a waiter cancels only its own turn. Credentials are looked up anew for each header, in
the order of their sources, and what one request has shown in vain it does not show again.
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
    credentials: Credentials | None = None
    """That it was got with."""


@dataclass(slots=True)
class Refused:
    """What one request has shown in vain; it makes one and hands it to each ``answer``."""

    headers: list[str] = field(default_factory=list, repr=False)
    credentials: list[Credentials | None] = field(default_factory=list)
    new: list[str] = field(default_factory=list, repr=False)
    """Headers that were made for this request. One that is refused too was not just too old."""


Scopes = tuple[str, ...]
Send = Callable[[TokenRequest], Awaitable[bytes]]
Load = Callable[[], Awaitable[Credentials | None]]
Sources = Callable[[], Sequence[Load]]
"""Where to look for credentials now, in order; a later one is asked only when the earlier do not serve."""


class Authenticator:
    """Keeps one header for each set of scopes. For use from one trio thread."""

    def __init__(self, name: str, sources: Sources, send: Send) -> None:
        """``send`` does one request to a token server; ``sources`` is asked for each new header."""
        self._name = name
        self._sources = sources
        self._send = send
        self._headers: dict[Scopes, _Header] = {}
        self._challenges: Sequence[Challenge] = ()
        self._plain_http = False
        self._lock = trio.Lock()

    async def header(self, scopes: Scopes) -> str | None:
        """The header to send; None as long as the registry has not asked for any."""
        known = self._headers.get(scopes)
        if known and known.stale_at > trio.current_time():
            return known.value
        if not any(challenge.scheme == "bearer" for challenge in self._challenges):
            return None
        async with self._lock:
            known = self._headers.get(scopes)
            if known and known.stale_at > trio.current_time():
                return known.value
            return await self._log_in(scopes, Refused())

    async def answer(
        self, challenges: Sequence[Challenge], scopes: Scopes, refused: Refused, *, plain_http: bool
    ) -> str:
        """A new header after the registry refused those in ``refused``.

        Args:
            challenges: The 401's; empty for a 403, which says that the credentials themselves do not serve.

        Raises:
            AuthError: there is none.
        """
        async with self._lock:
            known = self._headers.get(scopes)
            if known and known.value not in refused.headers:
                return known.value  # another task has just got it
            if known and (not challenges or known.value in refused.new):
                refused.credentials.append(known.credentials)
            self._headers.pop(scopes, None)
            self._plain_http = plain_http
            self._challenges = challenges or self._challenges
            return await self._log_in(scopes, refused)

    async def _log_in(self, scopes: Scopes, refused: Refused) -> str:
        """The header that the first credentials get which serve; none at all count as credentials too."""
        failure: AuthError | None = None
        found = False
        for load in self._sources():
            credentials = await load()
            found = found or credentials is not None
            if credentials is None or credentials in refused.credentials:
                continue
            try:
                return await self._get_header(scopes, credentials, refused)
            except AuthError as e:
                refused.credentials.append(credentials)
                failure = failure or e
        if not found and None not in refused.credentials:
            return await self._get_header(scopes, None, refused)
        raise failure or AuthError(f"{self._name} refused our credentials: log in again")

    async def _get_header(self, scopes: Scopes, credentials: Credentials | None, refused: Refused) -> str:
        plan = plan_answer(self._challenges, credentials, self._name)
        if isinstance(plan, AskToken):
            header = await self._get_token(plan, scopes, credentials)
        elif plan in refused.headers:
            raise AuthError(f"{self._name} refused our credentials: log in again")
        else:
            header = _Header(plan, float("inf"), credentials)
        self._headers[scopes] = header
        refused.new.append(header.value)
        return header.value

    async def _get_token(self, ask: AskToken, scopes: Scopes, credentials: Credentials | None) -> _Header:
        realm = check_realm(ask.realm, plain_http=self._plain_http, name=self._name)
        content = await self._send(_token_request(realm, ask, scopes, credentials))
        try:
            token = parse_token(content, f"the token server's answer for {self._name}")
        except IntegrityError as e:
            raise ProtocolError(str(e)) from e
        return _Header("Bearer " + token.value, trio.current_time() + token.use_for_s, credentials)


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
