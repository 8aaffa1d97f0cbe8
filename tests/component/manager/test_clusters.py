"""Clusters and roles in them by REST, on both databases."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.manager import Manager
from tests.support.manager_hosts import host_row, write_hosts
from tests.support.patience import PATIENCE_S

ANY = {"If-Match": "*"}
WRONG_SCOPES: list[dict[str, Any]] = [
    {"cidrs": ["10.0.0.0/33"]},
    {"cidrs": ["localhost"]},
    {"cidrs": ["10.0.0.0/8"] * 257},
    {"hostnames": [""]},
    {"hostnames": ["a\0b"]},
    {"hostnames": ["x" * 256]},
    {"idcs": [7]},
    {"locations": ["a|b|c|d|e|f"]},
    {"locations": ["|"]},
    {"regions": ["x"]},
]


def test_there_is_a_default_cluster_of_each_kind(manager: Manager) -> None:
    admin = manager.administrator()
    clusters = manager.call("GET", "/clusters", admin)
    assert [(c["kind"], c["name"], c["is_default"]) for c in clusters] == [
        ("scheduler", "default", True),
        ("seed", "default", True),
    ]


def test_clusters_are_made_changed_and_removed(manager: Manager) -> None:
    admin = manager.administrator()
    scopes = {"cidrs": ["10.1.2.3/16"], "hostnames": ["gpu-*"], "locations": ["europe|zone3"]}
    body = {"kind": "scheduler", "name": "gpu", "scopes": scopes}
    made = manager.ask("POST", "/clusters", admin, json=body)
    assert made.status_code == 201
    assert made.json()["scopes"] == {
        "cidrs": ["10.1.0.0/16"], "hostnames": ["gpu-*"], "idcs": [], "locations": ["europe|zone3"]
    }  # fmt: skip
    path, etag = f"/clusters/{made.json()['id']}", made.headers["etag"]
    assert manager.ask("POST", "/clusters", admin, json=body).status_code == 409
    manager.call("POST", "/clusters", admin, 201, json={**body, "kind": "seed"})

    changed = manager.ask("PATCH", path, admin, json={"description": "d"}, headers={"If-Match": etag})
    assert changed.json()["scopes"] == made.json()["scopes"]
    stale = manager.ask("PATCH", path, admin, json={"description": "e"}, headers={"If-Match": etag})
    assert stale.status_code == 409
    assert stale.json()["differs"] == {"description": {"is": "d", "sent": "e"}}
    assert manager.ask("DELETE", path, admin).status_code == 428
    manager.call("DELETE", path, admin, 204, headers={"If-Match": changed.headers["etag"]})
    assert manager.ask("GET", path, admin).status_code == 404
    actions = [change["action"] for change in manager.call("GET", "/audit", admin)["items"]]
    assert actions[:4] == ["cluster.delete", "cluster.change", "cluster.create", "cluster.create"]


def test_there_is_one_default_at_most(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"kind": "scheduler", "name": "other", "is_default": True}
    assert manager.ask("POST", "/clusters", admin, json=body).status_code == 409
    manager.call("PATCH", "/clusters/1", admin, json={"is_default": False}, headers=ANY)
    made = manager.call("POST", "/clusters", admin, 201, json=body)
    answer = manager.ask("PATCH", "/clusters/1", admin, json={"is_default": True}, headers=ANY)
    assert answer.status_code == 409
    assert manager.call("GET", f"/clusters/{made['id']}", admin)["is_default"]
    assert not manager.call("GET", "/clusters/1", admin)["is_default"]


def test_of_many_who_change_at_once_one_does(manager: Manager) -> None:
    admin = manager.administrator()
    etag = manager.ask("GET", "/clusters/1", admin).headers["etag"]
    codes: list[int] = []

    def change(number: int) -> None:
        body, headers = {"description": f"by {number}"}, {"If-Match": etag}
        codes.append(manager.ask("PATCH", "/clusters/1", admin, json=body, headers=headers).status_code)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(codes) == [200] + [409] * 7
    changes = manager.call("GET", "/audit", admin)["items"]
    assert len([change for change in changes if change["action"] == "cluster.change"]) == 1


def test_scopes_that_are_none(manager: Manager) -> None:
    admin = manager.administrator()
    for scopes in WRONG_SCOPES:
        answer = manager.ask("PATCH", "/clusters/1", admin, json={"scopes": scopes}, headers=ANY)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:cafs:problem:invalid"), scopes
    assert not any(manager.call("GET", "/clusters/1", admin)["scopes"].values())


def test_it_says_which_cluster_a_host_would_find_and_why(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"kind": "scheduler", "name": "gpu", "scopes": {"hostnames": ["gpu-*"]}}
    number = manager.call("POST", "/clusters", admin, 201, json=body)["id"]
    fits = manager.call("GET", "/clusters/fit?kind=scheduler&address=10.1.2.3&hostname=gpu-7", admin)
    assert [(fit["cluster_id"], fit["chosen"]) for fit in fits] == [(number, True), (1, False)]
    assert fits[0]["parts"] == {"cidr": 0, "hostname": 1, "idc": 0, "location": 0, "default": 0}
    wrong = manager.ask("GET", "/clusters/fit?kind=scheduler&address=gpu-7", admin)
    assert wrong.status_code == 422


def test_a_role_in_a_cluster_shows_that_cluster_and_no_other(manager: Manager) -> None:
    admin = manager.administrator()
    manager.call("POST", "/clusters", admin, 201, json={"kind": "scheduler", "name": "theirs"})
    alice = manager.person(admin, "alice")
    assert manager.ask("GET", "/clusters", alice).status_code == 403
    manager.call("PUT", "/clusters/1/members/alice", admin, 204, json={"role": "viewer"})
    assert [c["id"] for c in manager.call("GET", "/clusters", alice)] == [1]
    assert manager.ask("GET", "/clusters/1", alice).status_code == 200
    for path in ("/clusters/3", "/clusters/999999", "/clusters/fit?kind=seed&address=::1"):
        assert manager.ask("GET", path, alice).status_code == 403
    manager.call("DELETE", "/clusters/1/members/alice", admin, 204)
    assert manager.ask("DELETE", "/clusters/1/members/alice", admin).status_code == 404
    assert manager.ask("GET", "/clusters/1", alice).status_code == 403


def test_a_clusters_administrator_gives_roles_there_and_nowhere_else(manager: Manager) -> None:
    admin = manager.administrator()
    manager.person(admin, "bob")
    alice = manager.person(admin, "alice")
    manager.call("PUT", "/clusters/1/members/alice", admin, 204, json={"role": "admin"})
    manager.call("PUT", "/clusters/1/members/bob", alice, 204, json={"role": "operator"})
    assert manager.call("GET", "/clusters/1/members", alice) == [
        {"name": "alice", "role": "admin"},
        {"name": "bob", "role": "operator"},
    ]
    assert manager.ask("PUT", "/clusters/2/members/bob", alice, json={"role": "viewer"}).status_code == 403
    assert manager.ask("PATCH", "/clusters/1", alice, json={"name": "x"}, headers=ANY).status_code == 403
    answer = manager.ask("PUT", "/clusters/1/members/nobody", alice, json={"role": "viewer"})
    assert answer.status_code == 404


def test_a_cluster_that_is_gone_takes_its_roles_along(manager: Manager) -> None:
    admin = manager.administrator()
    alice = manager.person(admin, "alice")
    body = {"kind": "seed", "name": "short-lived"}
    number = manager.call("POST", "/clusters", admin, 201, json=body)["id"]
    manager.call("PUT", f"/clusters/{number}/members/alice", admin, 204, json={"role": "admin"})
    manager.call("DELETE", f"/clusters/{number}", admin, 204, headers=ANY)
    again = manager.call("POST", "/clusters", admin, 201, json=body)["id"]
    assert again != number
    assert manager.ask("GET", f"/clusters/{again}", alice).status_code == 403


def test_hosts_are_filtered_sorted_paged_and_counted(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"document": {"peer": {"concurrent_uploads": 7}}}
    manager.call("PUT", "/clusters/1/configuration", admin, json=body, headers=ANY)
    rows = (
        host_row(1, hostname="Alpha", running=1),
        host_row(2, hostname="beta", kind="seed", cluster_id=2, running=0),
        host_row(3, hostname="gamma_1", active=False, running=None),
        host_row(4, hostname="gamma21", cafs_version="0.1", running=0, refused="no"),
    )
    write_hosts(manager.options.database, rows)

    def names(query: str) -> list[str]:
        return [host["hostname"] for host in manager.call("GET", f"/hosts?{query}", admin)["items"]]

    assert names("text=ALP") == ["Alpha"]
    assert names("text=gamma_") == ["gamma_1"]
    assert names("text=10.0.0.2") == ["beta"]
    assert names("kind=peer&current=true") == ["Alpha"]
    assert names("current=false") == ["gamma_1", "gamma21"]
    assert names("refuses=true") == names("cafs_version=0.1") == ["gamma21"]
    assert names("order=hostname&descending=true&skip=1&limit=2") == ["gamma21", "beta"]
    assert manager.call("GET", "/hosts?order=hostname&limit=1", admin)["next"] is None
    counts = manager.call("GET", "/hosts/counts?cluster_id=1", admin)
    assert sorted((count["active"], count["refuses"], count["hosts"]) for count in counts) == [
        (False, False, 1),
        (True, False, 1),
        (True, True, 1),
    ]
    assert manager.ask("GET", "/hosts?order=refused", admin).status_code == 422


def test_the_audit_keeps_what_goes_with_a_cluster_or_an_account(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"kind": "scheduler", "name": "gpu"}
    number = manager.call("POST", "/clusters", admin, 201, json=body)["id"]
    for name in ("alice", "bob"):
        made = manager.call("POST", "/users", admin, 201, json={"name": name})
        path = f"/clusters/{number}/members/{name}"
        manager.call("PUT", path, admin, 204, json={"role": "operator"})
    tidy = {"name": "tidy", "cron": "0 4 * * *", "job": {"kind": "gc", "cluster_id": number}}
    manager.call("POST", "/schedules", admin, 201, json=tidy)
    for path in (f"/users/{made['id']}", f"/clusters/{number}"):
        manager.call("DELETE", path, admin, 204, headers={"If-Match": "*"})
    cluster, user = manager.call("GET", "/audit?limit=2", admin)["items"]
    assert (user["action"], user["before"]["clusters"]) == ("user.delete", {str(number): "operator"})
    kept = {name: cluster["before"][name] for name in ("name", "members", "schedules")}
    assert kept == {"name": "gpu", "members": {"alice": "operator"}, "schedules": ["tidy"]}
