"""Who asks for tokens, when and how often: the authenticator against a scripted token server and clock."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock

from cafs.errors import AuthError, CafsError, ProtocolError
from cafs.oci.registry.auth import Authenticator, TokenRequest
from cafs.oci.registry.challenge import Challenge, Credentials

PULL = ("repository:a:pull",)
PUSH = ("repository:a:pull,push",)
BEARER = [
    Challenge("bearer", {"realm": "https://auth.io/token", "service": "s", "scope": "repository:a:pull"})
]
BASIC = [Challenge("basic", {"realm": "r"})]


class Tokens:
    """Hands out token-1, token-2, ... for 100 s each (80 s of use) and remembers who asked."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.credentials = credentials
        self.asked: list[TokenRequest] = []
        self.error: CafsError | None = None
        self.auth = Authenticator("registry a.io", self._load, self._send)

    async def _load(self) -> Credentials | None:
        await trio.lowlevel.checkpoint()
        return self.credentials

    async def _send(self, request: TokenRequest) -> bytes:
        await trio.sleep(1)  # on the mock clock: long enough for others to come
        self.asked.append(request)
        if self.error:
            raise self.error
        return json.dumps({"token": f"token-{len(self.asked)}", "expires_in": 100}).encode()

    async def answer(self, refused: str | None, scopes: tuple[str, ...] = PULL) -> str:
        return await self.auth.answer(BEARER, scopes, refused, plain_http=False)


async def test_nothing_is_shown_before_it_is_asked_for(autojump_clock: MockClock) -> None:
    assert await Tokens(Credentials("u", "p")).auth.header(PULL) is None


async def test_a_token_is_used_until_shortly_before_its_end(autojump_clock: MockClock) -> None:
    tokens = Tokens(Credentials("u", "p"))
    assert await tokens.answer(None) == "Bearer token-1"
    await trio.sleep(79)
    assert await tokens.auth.header(PULL) == "Bearer token-1"
    await trio.sleep(2)
    assert await tokens.auth.header(PULL) == "Bearer token-2"
    assert [request.authorization for request in tokens.asked] == [Credentials("u", "p").basic] * 2
    assert tokens.asked[0].query == [("service", "s"), ("scope", "repository:a:pull")]


async def test_many_who_are_refused_at_once_share_one_new_token(autojump_clock: MockClock) -> None:
    tokens = Tokens()
    first = await tokens.answer(None)
    got: list[str] = []

    async def refused() -> None:
        got.append(await tokens.answer(first))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(refused)
    assert got == ["Bearer token-2"] * 20
    assert len(tokens.asked) == 2


async def test_a_waiter_that_goes_away_does_not_harm_the_others(autojump_clock: MockClock) -> None:
    tokens = Tokens()
    got: list[str] = []

    async def refused() -> None:
        got.append(await tokens.answer(None))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(refused)
            await tokens.answer(None)
    assert got == ["Bearer token-1"]


async def test_each_scope_has_its_own_token(autojump_clock: MockClock) -> None:
    tokens = Tokens()
    assert await tokens.answer(None) == "Bearer token-1"
    assert await tokens.auth.header(PUSH) == "Bearer token-2"
    assert await tokens.auth.header(PULL) == "Bearer token-1"
    assert tokens.asked[1].query[-1] == ("scope", "repository:a:pull,push")


async def test_credentials_are_read_anew_when_refused(autojump_clock: MockClock) -> None:
    tokens = Tokens(Credentials("u", "old"))
    old = await tokens.auth.answer(BASIC, PULL, None, plain_http=False)
    with pytest.raises(AuthError, match="log in again"):
        await tokens.auth.answer(BASIC, PULL, old, plain_http=False)
    tokens.credentials = Credentials("u", "new")
    assert await tokens.auth.answer(BASIC, PULL, old, plain_http=False) == Credentials("u", "new").basic
    assert await tokens.auth.header(PULL) == Credentials("u", "new").basic


async def test_an_identity_token_is_exchanged_by_post(autojump_clock: MockClock) -> None:
    tokens = Tokens(Credentials(identity_token="it"))
    await tokens.answer(None)
    (request,) = tokens.asked
    assert request.form == {
        "grant_type": "refresh_token",
        "service": "s",
        "client_id": "cafs",
        "scope": "repository:a:pull",
        "refresh_token": "it",
    }
    assert request.authorization is None
    assert "it'" not in repr(request)


async def test_a_failing_token_server_can_be_asked_again(autojump_clock: MockClock) -> None:
    tokens = Tokens()
    tokens.error = AuthError("no")
    with pytest.raises(AuthError):
        await tokens.answer(None)
    tokens.error = None
    assert await tokens.answer(None) == "Bearer token-2"


async def test_no_credentials_for_a_token_server_in_plain_http(autojump_clock: MockClock) -> None:
    tokens = Tokens(Credentials("u", "p"))
    plain = [Challenge("bearer", {"realm": "http://auth.io/token"})]
    with pytest.raises(ProtocolError, match="nothing was sent"):
        await tokens.auth.answer(plain, PULL, None, plain_http=False)
    assert tokens.asked == []
