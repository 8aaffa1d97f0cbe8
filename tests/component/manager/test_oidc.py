"""People who sign in at an OpenID provider: who they are here, and what is believed of it."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cafs.core.settings import Settings
from cafs.errors import UsageError
from cafs.manager.oidc.client import AGAIN_S, ProviderClient
from cafs.manager.oidc.flow import Flow
from cafs.manager.oidc.provider import Provider, parse_roles, provider_of
from cafs.manager.refusals import UnauthenticatedError
from cafs.manager.users.roles import Role
from tests.support.logs import ExpectedLogs
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import until
from tests.support.openid import CLIENT, Liar, Openid, begin, finish, running_liar, running_openid, sign_in
from tests.support.patience import PATIENCE_S

_MANY = 45
"""Sign-ins at once: more than REST has threads."""


@pytest.fixture(scope="module")
def openid() -> Iterator[Openid]:
    with running_openid() as provider:
        yield provider


@contextmanager
def manager_with(folder: Path, issuer: str, address: str = "", **changes: Any) -> Iterator[Manager]:
    provider = Provider(issuer=issuer, client_id=CLIENT, client_secret="s3cret", **changes)
    with running_manager(options_for(folder, address, provider=provider)) as manager:
        yield manager


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def test_who_was_expected_comes_in_by_name_and_then_by_subject(
    tmp_path: Path, database_address: str, openid: Openid
) -> None:
    openid.person("s-1", preferred_username="Alice")
    openid.person("s-2", preferred_username="alice")
    with manager_with(tmp_path, openid.issuer, database_address) as manager:
        admin = manager.administrator()
        assert problem(sign_in(manager, openid, "s-1")) == (403, "denied")  # nobody made an account
        made = manager.call(
            "POST", "/users", admin, 201, json={"name": "alice", "role": "viewer", "oidc": True}
        )
        assert (made["link"], made["oidc"], made["can_sign_in"]) == (None, True, True)

        token = sign_in(manager, openid, "s-1").json()["token"]
        me = manager.call("GET", "/me", token)
        assert (me["id"], me["name"], me["role"], me["scopes"]) == (made["id"], "alice", "viewer", None)
        assert problem(sign_in(manager, openid, "s-2")) == (403, "denied")  # another one of that name
        openid.person("s-1", preferred_username="renamed")
        again = sign_in(manager, openid, "s-1").json()["token"]
        assert manager.call("GET", "/me", again)["name"] == "alice"
        actions = [(row["action"], row["by"]) for row in manager.call("GET", "/audit", admin)["items"]]
        assert ("user.bind", "oidc") in actions


def test_an_account_with_a_password_is_not_taken_by_name(tmp_path: Path, openid: Openid) -> None:
    openid.person("impostor", preferred_username="root", groups=["everybody"])
    roles = {"everybody": Role.ADMIN}
    with manager_with(tmp_path, openid.issuer, roles=roles) as manager:
        manager.administrator()
        assert problem(sign_in(manager, openid, "impostor")) == (403, "denied")


def test_groups_say_who_comes_in_and_as_what(tmp_path: Path, database_address: str, openid: Openid) -> None:
    roles = {"sre": Role.OPERATOR, "platform": Role.ADMIN}
    with manager_with(tmp_path, openid.issuer, database_address, roles=roles) as manager:
        manager.administrator()
        seen = []
        for groups in (["sre", "platform"], ["sre"], "sre", [], None, [["sre"]], ["SRE"]):
            openid.person("bob", preferred_username="bob", groups=groups)
            answer = sign_in(manager, openid, "bob")
            token = answer.json().get("token", "")
            seen.append(manager.call("GET", "/me", token)["role"] if token else problem(answer))
        assert seen[:3] == ["admin", "operator", "operator"]
        assert seen[3:] == [(403, "denied")] * 4


def test_who_is_disabled_stays_out_and_nobody_has_two_ways_in(tmp_path: Path, openid: Openid) -> None:
    openid.person("carl", preferred_username="carl")
    with manager_with(tmp_path, openid.issuer) as manager:
        admin = manager.administrator()
        made = manager.call("POST", "/users", admin, 201, json={"name": "carl", "oidc": True})
        token = sign_in(manager, openid, "carl").json()["token"]
        path = f"/users/{made['id']}"
        assert problem(manager.ask("POST", f"{path}/link", admin)) == (409, "state")
        manager.call("PATCH", path, admin, json={"disabled": True}, headers={"If-Match": "*"})
        assert manager.ask("GET", "/me", token).status_code == 401
        assert problem(sign_in(manager, openid, "carl")) == (401, "unauthenticated")


def test_an_answer_belongs_to_the_sign_in_that_was_begun(
    tmp_path: Path, openid: Openid, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("does not take a code: invalid_grant")
    expected_logs.allow("token endpoint error")  # the provider's own
    openid.person("dora", preferred_username="dora")
    with manager_with(tmp_path, openid.issuer) as manager:
        admin = manager.administrator()
        manager.call("POST", "/users", admin, 201, json={"name": "dora", "oidc": True})
        mine, other = begin(manager), begin(manager)
        back = openid.sign_in(mine["address"], "dora")
        assert problem(finish(manager, other["flow"], back)) == (401, "unauthenticated")
        assert problem(finish(manager, mine["flow"][:-4] + "AAA=", back)) == (401, "unauthenticated")
        assert problem(finish(manager, mine["flow"], {**back, "code": "made up"})) == (401, "unauthenticated")
        assert finish(manager, mine["flow"], back).status_code == 201
        assert problem(finish(manager, mine["flow"], back)) == (401, "unauthenticated")  # a code holds once


def test_the_way_there_is_what_the_standard_asks_for(tmp_path: Path, openid: Openid) -> None:
    with manager_with(tmp_path, openid.issuer) as manager:
        first, second = begin(manager), begin(manager)
        query = {name: value[0] for name, value in parse_qs(urlsplit(first["address"]).query).items()}
        assert query["redirect_uri"] == f"{manager.ports.site}/oidc/callback"
        assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
        assert len(query["code_challenge"]) == 43
        other = parse_qs(urlsplit(second["address"]).query)
        assert all(query[name] != other[name][0] for name in ("state", "nonce", "code_challenge"))
        assert not any(query[name] in first["flow"] for name in ("state", "nonce"))


def test_without_a_provider_there_is_none(tmp_path: Path) -> None:
    with running_manager(options_for(tmp_path)) as manager:
        assert problem(manager.ask("POST", "/api/v1/oidc/flows")) == (404, "unknown")
        body = {"flow": "x", "state": "x", "code": "x"}
        assert problem(manager.ask("POST", "/api/v1/oidc/sessions", json=body)) == (404, "unknown")


def test_sign_ins_that_are_never_finished_are_slowed_down(tmp_path: Path, openid: Openid) -> None:
    with manager_with(tmp_path, openid.issuer) as manager:
        codes = [manager.ask("POST", "/api/v1/oidc/flows").status_code for _ in range(60)]
        assert codes[:50] == [201] * 50
        assert 429 in codes[50:]


def _with_public_key(liar: Liar) -> Callable[[dict[str, Any]], str]:
    public = liar.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    hmac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)

    def sign(claims: dict[str, Any]) -> str:
        """Not by ``jwt.encode``, which refuses to."""
        head, _, _ = jwt.encode(claims, "k" * 32, "HS256", headers={"kid": "1"}).rpartition(".")
        return f"{head}.{base64.urlsafe_b64encode(hmac.sign(head.encode(), public)).rstrip(b'=').decode()}"

    return sign


LIES: dict[str, Callable[[Liar], dict[str, Any]]] = {
    "for somebody else": lambda _: {"claims": {"aud": "other"}},
    "of somebody else": lambda _: {"claims": {"iss": "https://elsewhere"}},
    "of another sign-in": lambda _: {"claims": {"nonce": "other"}},
    "without a nonce": lambda _: {"claims": {"nonce": None}},
    "too old": lambda _: {"claims": {"exp": int(time.time()) - 3600}},
    "of the future": lambda _: {"claims": {"iat": int(time.time()) + 3600}},
    "for ever": lambda _: {"claims": {"exp": None}},
    "for two, and not for us": lambda _: {"claims": {"aud": [CLIENT, "other"], "azp": "other"}},
    "of nobody": lambda _: {"claims": {"sub": None}},
    "unsigned": lambda _: {"sign": lambda claims: jwt.encode(claims, "", "none")},
    "signed with our own secret": lambda _: {
        "sign": lambda claims: jwt.encode(claims, "s3cret" * 8, "HS256")
    },
    "signed with the public key": lambda liar: {"sign": _with_public_key(liar)},
    "of an unknown key": lambda liar: {
        "sign": lambda claims: jwt.encode(claims, liar.key, "RS256", headers={"kid": "2"})
    },
    "no token": lambda _: {"sign": lambda _claims: "nonsense"},
    "not even text": lambda _: {"sign": lambda _claims: 7},
}


@pytest.fixture(scope="module")
def lied_to(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Liar, Manager]]:
    folder = tmp_path_factory.mktemp("manager")
    with running_liar() as liar, manager_with(folder, liar.issuer, roles={"all": Role.VIEWER}) as manager:
        yield liar, manager


@pytest.mark.parametrize("lie", LIES)
def test_tokens_that_are_not_good_are_refused(
    lied_to: tuple[Liar, Manager], lie: str, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("a token of .* is not good")
    liar, manager = lied_to
    liar.claims, liar.sign = {"groups": ["all"]}, None
    assert _come_back(manager).status_code == 201  # an honest one comes in
    for name, value in LIES[lie](liar).items():
        setattr(liar, name, {**liar.claims, **value} if name == "claims" else value)
    assert problem(_come_back(manager)) == (401, "unauthenticated")


def _come_back(manager: Manager) -> Any:
    way = begin(manager)
    query = parse_qs(urlsplit(way["address"]).query)
    return finish(manager, way["flow"], {"state": query["state"][0], "code": query["nonce"][0]})


@pytest.mark.parametrize("name", ["", "A B", "x" * 64, "../root", "root\0", None, 7, ["alice"]])
def test_names_that_are_none_are_refused(lied_to: tuple[Liar, Manager], name: Any) -> None:
    liar, manager = lied_to
    liar.claims, liar.sign = {"groups": ["all"], "sub": "nameless", "preferred_username": name}, None
    assert problem(_come_back(manager)) == (403, "denied")


def test_an_address_counts_when_the_provider_has_verified_it(tmp_path: Path) -> None:
    roles = {"all": Role.VIEWER}
    with (
        running_liar() as liar,
        manager_with(tmp_path, liar.issuer, roles=roles, name_claim="email") as manager,
    ):
        for verified, status in ((None, 403), (False, 403), ("true", 403), (True, 201)):
            liar.claims = {"groups": ["all"], "email": "a@example.org", "email_verified": verified}
            assert _come_back(manager).status_code == status


def test_a_provider_that_is_none_or_away_is_told_and_comes_back(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("OIDC: .*refused")
    with running_liar() as liar, manager_with(tmp_path, liar.issuer) as manager:
        good = dict(liar.description)
        for change in (
            {"issuer": "https://elsewhere"},
            {"token_endpoint": "http://198.51.100.7/token"},
            {"jwks_uri": None},
        ):
            liar.description = {**good, **change}
            assert problem(manager.ask("POST", "/api/v1/oidc/flows")) == (503, "unavailable")
        liar.description, liar.padding = good, 2 << 20
        assert problem(manager.ask("POST", "/api/v1/oidc/flows")) == (503, "unavailable")
        liar.padding = 0
        begin(manager)
        before = len(liar.asked)
        begin(manager)
        assert len(liar.asked) == before  # its description is kept
    with manager_with(tmp_path / "two", liar.issuer) as manager:
        assert problem(manager.ask("POST", "/api/v1/oidc/flows")) == (503, "unavailable")


def test_keys_that_are_others_by_the_same_number_are_asked_for(expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("Signature verification failed")
    now = 0.0
    with running_liar() as liar:
        provider = Provider(issuer=liar.issuer, client_id=CLIENT, client_secret="s3cret")
        client, flow = ProviderClient(provider, lambda: now), Flow.begin()
        assert client.claims(flow, flow.nonce, "/back")["sub"] == "42"
        liar.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        with pytest.raises(UnauthenticatedError):  # asked for a moment ago
            client.claims(flow, flow.nonce, "/back")
        now = AGAIN_S + 1
        assert client.claims(flow, flow.nonce, "/back")["sub"] == "42"
        client.close()


def test_clocks_that_do_not_agree_are_told(
    lied_to: tuple[Liar, Manager], expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("do the clocks agree")
    liar, manager = lied_to
    liar.claims, liar.sign = {"groups": ["all"], "iat": int(time.time()) + 3600}, None
    assert "clock" in _come_back(manager).json()["detail"]


def test_a_provider_that_does_not_answer_leaves_threads_to_others(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("OIDC")
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as silent,
        manager_with(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}") as manager,
        ThreadPoolExecutor(_MANY) as threads,
    ):
        asked = [threads.submit(manager.ask, "POST", "/api/v1/oidc/flows") for _ in range(_MANY)]
        until(lambda: sum(each.done() for each in asked) >= _MANY - 8)
        assert manager.ask("GET", "/healthz").status_code == 200
        silent.close()  # which resets whoever waits for it
        assert {problem(each.result(PATIENCE_S)) for each in asked} == {(503, "unavailable")}


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    plain = Settings(cache_dir=tmp_path, run_dir=tmp_path)
    assert provider_of(plain) is None
    for issuer, client in (
        ("http://idp.example.org", "c"),
        ("idp.example.org", "c"),
        ("https://a.example", ""),
    ):
        with pytest.raises(UsageError, match="manager_oidc"):
            provider_of(replace(plain, manager_oidc_issuer=issuer, manager_oidc_client=client))
    for line in ("admins", "=admin", "admins=root", ""):
        with pytest.raises(UsageError, match="manager_oidc_roles"):
            parse_roles([line])
    assert parse_roles(["a=b=admin"]) == {"a=b": Role.ADMIN}
