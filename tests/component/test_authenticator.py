"""Who asks for tokens, when and how often: the authenticator against a scripted token server and clock."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from cafs.errors import AuthError, CafsError, ProtocolError
from cafs.oci.registry.auth import Authenticator, Load, Refused, TokenRequest
from cafs.oci.registry.challenge import Challenge, Credentials

PULL = ("repository:a:pull",)
PUSH = ("repository:a:pull,push",)
BEARER = [
    Challenge("bearer", {"realm": "https://auth.io/token", "service": "s", "scope": "repository:a:pull"})
]
BASIC = [Challenge("basic", {"realm": "r"})]


def shown(*headers: str | None) -> Refused:
    """What a request has shown in vain, with headers that were there before it."""
    return Refused([header or "" for header in headers])


class Tokens:
    """Hands out token-1, token-2, ... for 100 s each (80 s of use) and remembers who asked."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.credentials = credentials
        self.brought: list[Credentials] = []
        """What is tried before ``credentials``."""
        self.loads = 0
        """How often ``credentials`` was looked up."""
        self.wrong: list[Credentials] = []
        """What the token server refuses."""
        self.asked: list[TokenRequest] = []
        self.error: CafsError | None = None
        self.auth = Authenticator("registry a.io", self._sources, self._send)

    def _sources(self) -> list[Load]:
        return [*(partial(self._give, found) for found in self.brought), self._load]

    async def _give(self, credentials: Credentials) -> Credentials:
        return credentials

    async def _load(self) -> Credentials | None:
        await trio.lowlevel.checkpoint()
        self.loads += 1
        return self.credentials

    async def _send(self, request: TokenRequest) -> bytes:
        await trio.sleep(1)  # on the mock clock: long enough for others to come
        self.asked.append(request)
        if self.error:
            raise self.error
        if request.authorization in [credentials.basic for credentials in self.wrong]:
            raise AuthError("the token server answered 401")
        return json.dumps({"token": f"token-{len(self.asked)}", "expires_in": 100}).encode()

    async def answer(self, refused: str | None, scopes: tuple[str, ...] = PULL) -> str:
        return await self.auth.answer(BEARER, scopes, shown(refused), plain_http=False)


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
    old = await tokens.auth.answer(BASIC, PULL, shown(None), plain_http=False)
    with pytest.raises(AuthError, match="log in again"):
        await tokens.auth.answer(BASIC, PULL, shown(old), plain_http=False)
    tokens.credentials = Credentials("u", "new")
    assert (
        await tokens.auth.answer(BASIC, PULL, shown(old), plain_http=False) == Credentials("u", "new").basic
    )
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
        await tokens.auth.answer(plain, PULL, shown(None), plain_http=False)
    assert tokens.asked == []


async def test_sources_are_asked_in_order_and_no_further_than_needed(autojump_clock: MockClock) -> None:
    tokens = Tokens(Credentials("u", "docker's"))
    tokens.brought = [Credentials("u", "pod's")]
    await tokens.answer(None)
    assert tokens.asked[0].authorization == tokens.brought[0].basic
    assert tokens.loads == 0


async def test_credentials_that_the_token_server_refuses_give_way_to_the_next(
    autojump_clock: MockClock,
) -> None:
    tokens = Tokens(Credentials("u", "docker's"))
    tokens.brought = [Credentials("u", "expired"), Credentials("u", "pod's")]
    tokens.wrong = [Credentials("u", "expired")]
    await tokens.answer(None)
    assert tokens.asked[-1].authorization == tokens.brought[1].basic
    await trio.sleep(81)
    tokens.wrong = list(tokens.brought)
    assert await tokens.auth.header(PULL) is not None
    assert tokens.asked[-1].authorization == Credentials("u", "docker's").basic


async def test_when_all_are_refused_the_first_ones_answer_is_told(autojump_clock: MockClock) -> None:
    tokens = Tokens(Credentials("u", "p"))
    tokens.wrong = [Credentials("u", "p")]
    with pytest.raises(AuthError, match="the token server answered 401"):
        await tokens.answer(None)
    assert len(tokens.asked) == 1  # and nobody is asked without credentials: that would hide the reason


async def test_a_fresh_token_that_is_refused_spends_its_credentials(autojump_clock: MockClock) -> None:
    """A token that was too old is got again with the same credentials; a new one need not be tried twice."""
    tokens = Tokens(Credentials("u", "docker's"))
    tokens.brought = [Credentials("u", "of another repository")]
    old = await tokens.answer(None)
    refused = shown(old)
    again = await tokens.auth.answer(BEARER, PULL, refused, plain_http=False)
    assert tokens.asked[-1].authorization == tokens.brought[0].basic
    refused.headers.append(again)
    third = await tokens.auth.answer(BEARER, PULL, refused, plain_http=False)
    assert tokens.asked[-1].authorization == Credentials("u", "docker's").basic
    refused.headers.append(third)
    with pytest.raises(AuthError, match="log in again"):
        await tokens.auth.answer(BEARER, PULL, refused, plain_http=False)


async def test_a_password_that_is_forbidden_by_now_is_replaced(autojump_clock: MockClock) -> None:
    """403 instead of 401 for a password that expired: no challenge comes with it."""
    tokens = Tokens(Credentials("u", "docker's"))
    tokens.brought = [Credentials("u", "12 hours old")]
    old = await tokens.auth.answer(BASIC, PULL, shown(None), plain_http=False)
    new = await tokens.auth.answer([], PULL, shown(old), plain_http=False)
    assert (old, new) == (tokens.brought[0].basic, Credentials("u", "docker's").basic)
    with pytest.raises(AuthError):
        await tokens.auth.answer([], PULL, shown(old, new), plain_http=False)
