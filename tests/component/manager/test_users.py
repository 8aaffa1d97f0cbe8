"""Coming in, accounts, tokens and the audit, on both databases."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from cafs.manager.database import Database
from cafs.manager.http.paths import API
from cafs.manager.tables import Account, Invitation, Token
from tests.support.manager import PASSWORD, Manager, options_for, running_manager
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres

ANY = {"If-Match": "*"}


def kind(answer: Any) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return str(answer.json()["type"]).rpartition(":")[2]


def secret_of(link: str) -> str:
    return link.partition("link=")[2]


def test_the_first_administrator_comes_in_by_the_link_that_is_printed(manager: Manager) -> None:
    assert manager.said[0].count("http://127.0.0.1:") == 1
    link = manager.setup_link
    form = manager.client.get(f"/setup?link={link}")
    assert (form.status_code, form.text.count("<input")) == (200, 3)
    assert manager.client.get("/setup?link=cafs_link_x").status_code == 401
    weak = manager.client.post("/setup", data={"link": link, "name": "root", "password": "short"})
    assert (weak.status_code, "short" in weak.text) == (422, False)
    done = manager.client.post("/setup", data={"link": link, "name": "root", "password": PASSWORD})
    assert (done.status_code, "root can sign in" in done.text) == (200, True)
    again = manager.client.post("/setup", data={"link": link, "name": "eve", "password": PASSWORD})
    assert again.status_code == 401
    me = manager.call("GET", "/me", manager.sign_in("root"))
    assert (me["name"], me["role"], me["scopes"]) == ("root", "admin", None)


def test_no_link_is_printed_once_somebody_can_sign_in(tmp_path: Path, database_address: str) -> None:
    options = options_for(tmp_path, database_address)
    with running_manager(options) as manager:
        first = manager.setup_link
    with running_manager(options) as manager:  # nobody came: a new one, and the old one still holds
        assert manager.setup_link != first
        assert manager.client.get(f"/setup?link={first}").status_code == 200
        manager.administrator()
        assert manager.client.get(f"/setup?link={first}").status_code == 401
    with running_manager(options) as manager:
        assert manager.said == []
    with running_manager(options_for(tmp_path, database_address, new_admin=True)) as manager:
        document = {"link": manager.setup_link, "name": "second", "password": PASSWORD}
        assert manager.client.post(f"{API}/setup", json=document).status_code == 201


def test_two_who_use_a_link_at_once_are_one_administrator(manager: Manager) -> None:
    codes = []

    def use(name: str) -> None:
        document = {"link": manager.setup_link, "name": name, "password": PASSWORD}
        codes.append(manager.client.post(f"{API}/setup", json=document).status_code)

    threads = [threading.Thread(target=use, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(codes) == [201, 401, 401]


def test_nothing_is_told_without_a_good_token(manager: Manager) -> None:
    admin = manager.administrator()
    for token in ("nonsense", "cafs_session_" + "A" * 43, "x" * 5000):
        answer = manager.ask("GET", "/users", token)
        assert (answer.status_code, kind(answer)) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert token not in answer.text
    assert manager.client.get(f"{API}/users").status_code == 401
    basic = manager.client.get(f"{API}/users", headers={"Authorization": f"Basic {admin}"})
    assert basic.status_code == 401
    manager.call("DELETE", "/sessions/current", admin, 204)
    assert manager.ask("GET", "/me", admin).status_code == 401


def test_names_and_passwords_that_are_wrong_are_told_alike(manager: Manager) -> None:
    manager.administrator()
    answers = []
    for name, password in (("root", "wrong " + PASSWORD), ("nobody", PASSWORD), ("", ""), ("root\0", "x")):
        answer = manager.client.post(f"{API}/sessions", json={"name": name, "password": password})
        answers.append((answer.status_code, answer.text))
    assert len(set(answers)) == 1
    assert answers[0][0] == 401


def test_guessing_passwords_is_slowed_down_and_others_come_in(manager: Manager) -> None:
    admin = manager.administrator()
    manager.person(admin, "bob", role="viewer")
    codes = []
    for number in range(10):
        document = {"name": "root", "password": f"wrong guess {number}"}
        answer = manager.client.post(f"{API}/sessions", json=document)
        codes.append(answer.status_code)
    assert codes[:6] == [401] * 6
    assert codes[6] == 429
    assert (kind(answer), int(answer.headers["retry-after"]) >= 1) == ("throttled", True)
    manager.sign_in("bob")  # the address may still
    assert manager.ask("GET", "/me", admin).status_code == 200


def test_guessing_tokens_is_slowed_down_and_good_ones_are_not(manager: Manager) -> None:
    admin = manager.administrator()
    codes = [manager.ask("GET", "/me", f"guess-{number}").status_code for number in range(40)]
    assert manager.ask("GET", "/me", admin).status_code == 200
    assert codes[:21] == [401] * 21
    assert 429 in codes[21:]


def test_accounts_are_made_changed_and_removed(manager: Manager) -> None:
    admin = manager.administrator()
    made = manager.ask("POST", "/users", admin, json={"name": "alice", "role": "operator"})
    assert (made.status_code, made.json()["can_sign_in"]) == (201, False)
    number, etag = made.json()["id"], made.headers["etag"]
    assert kind(manager.ask("POST", "/users", admin, json={"name": "alice"})) == "exists"
    assert manager.client.get(f"/setup?link={secret_of(made.json()['link'])}").text.count("<input") == 2

    path = f"/users/{number}"
    assert kind(manager.ask("PATCH", path, admin, json={"role": "viewer"})) == "precondition"
    changed = manager.ask("PATCH", path, admin, json={"role": "viewer"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["role"]) == (200, "viewer")
    assert changed.headers["etag"] != etag
    wanted = {"role": "admin", "disabled": False}
    stale = manager.ask("PATCH", path, admin, json=wanted, headers={"If-Match": etag})
    assert (stale.status_code, kind(stale)) == (409, "conflict")
    assert stale.json()["differs"] == {"role": {"is": "viewer", "sent": "admin"}}
    assert stale.json()["etag"] == changed.headers["etag"]
    assert manager.call("GET", path, admin)["role"] == "viewer"

    assert manager.ask("DELETE", path, admin, headers={"If-Match": etag}).status_code == 409
    manager.call("DELETE", path, admin, 204, headers={"If-Match": changed.headers["etag"]})
    assert kind(manager.ask("GET", path, admin)) == "unknown"
    actions = [change["action"] for change in manager.call("GET", "/audit", admin)["items"]]
    assert actions == ["user.delete", "user.change", "user.create", "user.setup"]


def test_a_disabled_account_is_out_at_once(manager: Manager) -> None:
    admin = manager.administrator()
    alice = manager.person(admin, "alice", role="viewer")
    body = {"name": "robot", "scopes": ["users:read"], "days": 1}
    token = manager.call("POST", "/me/tokens", alice, 201, json=body)["token"]
    number = manager.call("GET", "/me", alice)["id"]
    manager.call("PATCH", f"/users/{number}", admin, json={"disabled": True}, headers=ANY)
    assert manager.ask("GET", "/me", alice).status_code == 401
    assert manager.ask("GET", "/me", token).status_code == 401
    assert (
        manager.client.post(f"{API}/sessions", json={"name": "alice", "password": PASSWORD}).status_code
        == 401
    )


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"role": None}, {"disabled": True}, None])
def test_the_last_administrator_stays(manager: Manager, change: dict[str, Any] | None) -> None:
    admin = manager.administrator()
    manager.call("POST", "/users", admin, 201, json={"name": "invited", "role": "admin"})  # cannot sign in
    number = manager.call("GET", "/me", admin)["id"]
    method = "DELETE" if change is None else "PATCH"
    arguments = {} if change is None else {"json": change}
    answer = manager.ask(method, f"/users/{number}", admin, headers=ANY, **arguments)
    assert (answer.status_code, kind(answer)) == (409, "state")
    assert manager.call("GET", "/me", admin)["role"] == "admin"


def test_two_administrators_who_demote_each_other_leave_one(manager: Manager) -> None:
    admin = manager.administrator()
    other = manager.person(admin, "other", role="admin")
    numbers = {token: manager.call("GET", "/me", token)["id"] for token in (admin, other)}
    codes: list[int] = []

    def demote(by: str, whom: int) -> None:
        answer = manager.ask("PATCH", f"/users/{whom}", by, json={"role": "viewer"}, headers=ANY)
        codes.append(answer.status_code)

    threads = [
        threading.Thread(target=demote, args=(admin, numbers[other])),
        threading.Thread(target=demote, args=(other, numbers[admin])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    roles = [manager.ask("GET", "/me", token).json()["role"] for token in (admin, other)]
    assert "admin" in roles
    assert codes.count(200) == 1


def test_a_password_is_changed_with_the_current_one_and_other_sessions_end(manager: Manager) -> None:
    admin = manager.administrator()
    elsewhere = manager.sign_in("root")
    wrong = {"current": "not it at all", "new": "another long one"}
    assert manager.ask("PUT", "/me/password", admin, json=wrong).status_code == 401
    right = {"current": PASSWORD, "new": "another long one"}
    manager.call("PUT", "/me/password", admin, 204, json=right)
    assert manager.ask("GET", "/me", elsewhere).status_code == 401
    assert manager.ask("GET", "/me", admin).status_code == 200
    manager.sign_in("root", "another long one")


def test_who_forgot_a_password_gets_a_link(manager: Manager) -> None:
    admin = manager.administrator()
    manager.person(admin, "alice", role="viewer")
    number = next(u["id"] for u in manager.call("GET", "/users", admin)["items"] if u["name"] == "alice")
    first = secret_of(manager.call("POST", f"/users/{number}/link", admin, 201)["link"])
    second = secret_of(manager.call("POST", f"/users/{number}/link", admin, 201)["link"])
    document = {"link": first, "password": "quite another one"}
    assert manager.client.post(f"{API}/setup", json=document).status_code == 401
    document = {"link": second, "name": "root", "password": "quite another one"}
    assert manager.client.post(f"{API}/setup", json=document).status_code == 409
    document = {"link": second, "password": "quite another one"}
    assert manager.client.post(f"{API}/setup", json=document).status_code == 201
    manager.sign_in("alice", "quite another one")


def test_tokens_do_what_they_are_for_and_no_more(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"name": "reads users", "scopes": ["users:read"], "days": 30}
    made = manager.call("POST", "/me/tokens", admin, 201, json=body)
    token = made["token"]
    assert manager.ask("GET", "/users", token).status_code == 200
    assert manager.ask("POST", "/users", token, json={"name": "eve"}).status_code == 403
    assert manager.ask("GET", "/audit", token).status_code == 403
    assert manager.ask("POST", "/me/tokens", token, json=body).status_code == 403
    assert manager.ask("PUT", "/me/password", token, json={"current": "", "new": PASSWORD}).status_code == 403
    assert manager.call("GET", "/me", token)["scopes"] == ["users:read"]
    listed = manager.call("GET", "/me/tokens", admin)
    assert [item["name"] for item in listed] == ["reads users"]
    assert "token" not in listed[0]
    manager.call("DELETE", f"/me/tokens/{made['id']}", admin, 204)
    assert manager.ask("GET", "/users", token).status_code == 401
    assert manager.ask("DELETE", f"/me/tokens/{made['id']}", admin).status_code == 404


def test_nobody_deletes_anothers_token_but_an_administrator(manager: Manager) -> None:
    admin = manager.administrator()
    alice = manager.person(admin, "alice", role="viewer")
    body = {"name": "t", "scopes": ["audit:read"], "days": 1}
    made = manager.call("POST", "/me/tokens", alice, 201, json=body)
    assert manager.ask("DELETE", f"/me/tokens/{made['id']}", admin).status_code == 404
    number = manager.call("GET", "/me", alice)["id"]
    assert [t["id"] for t in manager.call("GET", f"/users/{number}/tokens", admin)] == [made["id"]]
    manager.call("DELETE", f"/users/{number}/tokens/{made['id']}", admin, 204)
    assert manager.ask("GET", "/me", made["token"]).status_code == 401


def test_what_has_expired_lets_nobody_in(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"name": "t", "scopes": ["users:read"], "days": 1}
    token = manager.call("POST", "/me/tokens", admin, 201, json=body)["token"]
    link = secret_of(manager.call("POST", "/users", admin, 201, json={"name": "alice"})["link"])
    past = datetime.now(UTC) - timedelta(seconds=1)
    if manager.options.database.drivername == "sqlite":
        from sqlalchemy import create_engine  # noqa: PLC0415 - SQLite's file is the manager's own

        engine = create_engine(manager.options.database)
        with engine.begin() as connection:
            for table in (Token, Invitation):
                connection.execute(update(table).values(expires_at=past))
        engine.dispose()
    else:
        with Database(manager.options.database) as database, database.writing() as session:
            for table in (Token, Invitation):
                session.execute(update(table).values(expires_at=past))
    assert manager.ask("GET", "/users", token).status_code == 401
    assert manager.ask("GET", "/users", admin).status_code == 401
    document = {"link": link, "password": PASSWORD}
    assert manager.client.post(f"{API}/setup", json=document).status_code == 401


def test_no_secret_is_kept_told_or_logged(
    tmp_path: Path, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    database = postgres.new_database()
    with running_manager(options_for(tmp_path, postgres.url(database))) as manager:
        admin = manager.administrator()
        link = manager.setup_link
        body = {"name": "t", "scopes": ["users:read"], "days": 1}
        token = manager.call("POST", "/me/tokens", admin, 201, json=body)["token"]
        told = manager.ask("GET", "/audit", admin).text + manager.ask("GET", "/users", admin).text
        wrong = manager.client.post(f"{API}/sessions", json={"name": 5, "password": PASSWORD})
        assert wrong.status_code == 422
        told += wrong.text
    kept = "".join(
        str(postgres.ask(database, f"SELECT * FROM {table}"))
        for table in ("account", "token", "invitation", "change")
    )
    for secret in (PASSWORD, admin, token, link, postgres.password):
        assert secret not in told
        assert secret not in kept
        assert secret not in caplog.text
    assert re.search(r"\$argon2id\$", kept)
    assert Account.__tablename__ == "account"


NO_NAMES: list[Any] = [
    "Robert'); DROP TABLE account;--",
    "<script>alert(1)</script>", "", "a" * 65, "\uff41lice", "a\0b", "a b", 7,
]  # fmt: skip


def test_names_that_are_none(manager: Manager) -> None:
    admin = manager.administrator()
    for name in NO_NAMES:
        answer = manager.ask("POST", "/users", admin, json={"name": name})
        assert (answer.status_code, kind(answer)) == (422, "invalid"), name
        assert [error["field"] for error in answer.json()["errors"]] == ["body.name"]
    assert len(manager.call("GET", "/users", admin)["items"]) == 1


def test_sql_and_script_in_labels_are_only_text(manager: Manager) -> None:
    admin = manager.administrator()
    label = "'; DELETE FROM token;-- <script>alert(1)</script>"
    body = {"name": label, "scopes": ["users:read"], "days": 1}
    manager.call("POST", "/me/tokens", admin, 201, json=body)
    answer = manager.ask("GET", "/me/tokens", admin)
    assert [item["name"] for item in answer.json()] == [label]
    assert answer.headers["content-type"] == "application/json"


NO_BODIES = [
    b"", b"{", b"[]", b"null", b'{"name": "x", "role": "emperor"}', b'{"name": "x", "admin": true}',
    b'{"name": "\\ud800"}', b"[" * 100_000, b"\xff", b'{"name": NaN}',
]  # fmt: skip


def test_bodies_that_are_none(manager: Manager) -> None:
    admin = manager.administrator()
    headers = {"Content-Type": "application/json"}
    for body in NO_BODIES:
        answer = manager.ask("POST", "/users", admin, content=body, headers=headers)
        assert answer.status_code in {400, 422}, body
        assert kind(answer) in {"invalid", "bad_request"}
    assert len(manager.call("GET", "/users", admin)["items"]) == 1


def test_pages(manager: Manager) -> None:
    admin = manager.administrator()
    for number in range(5):
        manager.call("POST", "/users", admin, 201, json={"name": f"u{number}"})
    names, after = [], 0
    while after is not None:
        page = manager.call("GET", f"/users?limit=2&after={after}", admin)
        names += [user["name"] for user in page["items"]]
        after = page["next"]
    assert names == ["root", "u0", "u1", "u2", "u3", "u4"]
    first = manager.call("GET", "/audit?limit=4", admin)
    rest = manager.call("GET", f"/audit?limit=4&before={first['next']}", admin)
    assert [len(first["items"]), len(rest["items"]), rest["next"]] == [4, 2, None]
    for wrong in ("limit=0", "limit=1001", "after=-1", f"after={1 << 31}", "after=x"):
        assert manager.ask("GET", f"/users?{wrong}", admin).status_code == 422
