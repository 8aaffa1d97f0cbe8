"""Each role, and each token, against each route of REST. A route that is not in the table fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cafs.manager.http.paths import API
from cafs.manager.users.roles import Scope
from tests.support.manager import Manager, options_for, running_manager

EVERYBODY, ANYBODY, SESSION = "everybody", "anybody", "a session"
ADMIN = "admin everywhere"
ROUTES = {
    ("GET", "/healthz"): (EVERYBODY, None),
    ("POST", f"{API}/setup"): (EVERYBODY, None),
    ("POST", f"{API}/setup/link"): (EVERYBODY, None),
    ("POST", f"{API}/sessions"): (EVERYBODY, None),
    ("GET", f"{API}/oidc"): (EVERYBODY, None),
    ("POST", f"{API}/oidc/flows"): (EVERYBODY, None),
    ("POST", f"{API}/oidc/sessions"): (EVERYBODY, None),
    ("GET", f"{API}/me"): (ANYBODY, None),
    ("PUT", f"{API}/me/password"): (SESSION, None),
    ("GET", f"{API}/me/tokens"): (SESSION, None),
    ("POST", f"{API}/me/tokens"): (SESSION, None),
    ("DELETE", f"{API}/me/tokens/{{token_id}}"): (SESSION, None),
    ("GET", f"{API}/users"): (ADMIN, "users:read"),
    ("POST", f"{API}/users"): (ADMIN, "users:write"),
    ("GET", f"{API}/users/{{user_id}}"): (ADMIN, "users:read"),
    ("PATCH", f"{API}/users/{{user_id}}"): (ADMIN, "users:write"),
    ("DELETE", f"{API}/users/{{user_id}}"): (ADMIN, "users:write"),
    ("POST", f"{API}/users/{{user_id}}/link"): (ADMIN, "users:write"),
    ("GET", f"{API}/users/{{user_id}}/tokens"): (ADMIN, "users:read"),
    ("DELETE", f"{API}/users/{{user_id}}/tokens/{{token_id}}"): (ADMIN, "users:write"),
    ("GET", f"{API}/audit"): (ADMIN, "audit:read"),
    ("GET", f"{API}/clusters"): ("viewer somewhere", "clusters:read"),
    ("POST", f"{API}/clusters"): (ADMIN, "clusters:write"),
    ("GET", f"{API}/clusters/fit"): ("viewer everywhere", "clusters:read"),
    ("GET", f"{API}/clusters/{{cluster_id}}"): ("viewer there", "clusters:read"),
    ("PATCH", f"{API}/clusters/{{cluster_id}}"): (ADMIN, "clusters:write"),
    ("DELETE", f"{API}/clusters/{{cluster_id}}"): (ADMIN, "clusters:write"),
    ("GET", f"{API}/clusters/{{cluster_id}}/members"): ("admin there", "users:read"),
    ("PUT", f"{API}/clusters/{{cluster_id}}/members/{{name}}"): ("admin there", "users:write"),
    ("DELETE", f"{API}/clusters/{{cluster_id}}/members/{{name}}"): ("admin there", "users:write"),
    ("GET", f"{API}/clusters/{{cluster_id}}/configuration"): ("viewer there", "clusters:read"),
    ("PUT", f"{API}/clusters/{{cluster_id}}/configuration"): ("operator there", "clusters:write"),
    ("POST", f"{API}/clusters/{{cluster_id}}/configuration/check"): ("viewer there", "clusters:read"),
    ("POST", f"{API}/clusters/{{cluster_id}}/configuration/restore"): ("operator there", "clusters:write"),
    ("GET", f"{API}/clusters/{{cluster_id}}/configuration/versions"): ("viewer there", "clusters:read"),
    ("GET", f"{API}/clusters/{{cluster_id}}/configuration/versions/{{version}}"): (
        "viewer there",
        "clusters:read",
    ),
    ("GET", f"{API}/clusters/{{cluster_id}}/configuration/versions/{{version}}/changes"): (
        "viewer there",
        "clusters:read",
    ),
    ("GET", f"{API}/clusters/{{cluster_id}}/tasks"): ("viewer there", "clusters:read"),
    ("GET", f"{API}/clusters/{{cluster_id}}/tasks/{{task_id}}/swarm"): ("viewer there", "clusters:read"),
    ("GET", f"{API}/clusters/{{cluster_id}}/tasks/{{task_id}}/explanation"): (
        "viewer there",
        "clusters:read",
    ),
    ("GET", f"{API}/hosts"): ("viewer somewhere", "clusters:read"),
    ("GET", f"{API}/hosts/counts"): ("viewer somewhere", "clusters:read"),
    ("GET", f"{API}/hosts/{{host_id}}"): ("viewer somewhere", "clusters:read"),
    ("DELETE", f"{API}/hosts/{{host_id}}"): ("operator somewhere", "clusters:write"),
    ("GET", f"{API}/profiles"): ("viewer everywhere", "profiles:read"),
    ("GET", f"{API}/profiles/{{image}}"): ("viewer everywhere", "profiles:read"),
    ("GET", f"{API}/profiles/{{image}}/shared"): ("viewer everywhere", "profiles:read"),
    ("DELETE", f"{API}/profiles/{{image}}"): ("operator everywhere", "profiles:write"),
    ("GET", f"{API}/statistics/series"): ("viewer somewhere", "clusters:read"),
    ("GET", f"{API}/statistics/totals"): ("viewer somewhere", "clusters:read"),
    ("GET", f"{API}/statistics/top"): ("viewer somewhere", "clusters:read"),
    ("GET", f"{API}/jobs"): ("viewer somewhere", "jobs:read"),
    ("POST", f"{API}/jobs"): ("operator somewhere", "jobs:write"),
    ("GET", f"{API}/jobs/{{job_id}}"): ("viewer somewhere", "jobs:read"),
    ("GET", f"{API}/jobs/{{job_id}}/hosts"): ("viewer somewhere", "jobs:read"),
    ("GET", f"{API}/jobs/{{job_id}}/events"): ("viewer somewhere", "jobs:read"),
    ("POST", f"{API}/jobs/{{job_id}}/cancel"): ("operator somewhere", "jobs:write"),
    ("POST", f"{API}/jobs/{{job_id}}/retry"): ("operator somewhere", "jobs:write"),
    ("GET", f"{API}/schedules"): ("viewer somewhere", "jobs:read"),
    ("POST", f"{API}/schedules"): ("operator somewhere", "jobs:write"),
    ("GET", f"{API}/schedules/{{schedule_id}}"): ("viewer somewhere", "jobs:read"),
    ("PATCH", f"{API}/schedules/{{schedule_id}}"): ("operator somewhere", "jobs:write"),
    ("DELETE", f"{API}/schedules/{{schedule_id}}"): ("operator somewhere", "jobs:write"),
    ("DELETE", f"{API}/sessions/current"): (SESSION, None),  # last: it ends what the others are asked with
}
"""Who may, and the scope that a token needs."""
THERE = 3
"""The cluster of the address."""
NOT_THERE = {
    "{user_id}": "999999",
    "{token_id}": "999999",
    "{name}": "nobody",
    "{host_id}": "0" * 32,
    "{task_id}": "0" * 64,
    "{version}": "999",
    "{image}": f"sha256:{0:064x}",
    "{job_id}": "999999",
    "{schedule_id}": "999999",
}
LEVELS = {None: 0, "viewer": 1, "operator": 2, "admin": 3}


@dataclass(frozen=True)
class Who:
    """Somebody who asks."""

    name: str
    token: str
    role: str | None = None
    there: str | None = None
    """The role in the cluster of the address."""
    elsewhere: str | None = None
    """The role in another one."""
    scopes: frozenset[str] | None = None

    def may(self, least: str, scope: str | None) -> bool:
        """By the table above, said in other words than the program says it."""
        if least == EVERYBODY:
            return True
        if not self.token:
            return False
        if least == ANYBODY:
            return True
        if self.scopes is not None and scope not in self.scopes:
            return False
        if least == SESSION:
            return True
        role, _, where = least.partition(" ")
        held = [self.role]
        held += [self.there] if where != "everywhere" else []
        held += [self.elsewhere] if where == "somewhere" else []
        return max(LEVELS[each] for each in held) >= LEVELS[role]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with running_manager(options_for(tmp_path_factory.mktemp("manager"))) as running:
        yield running


@pytest.fixture(scope="module")
def people(asked: Manager) -> list[Who]:
    """A session of each role; of an administrator a token of each scope, and one of all."""
    admin = asked.administrator()
    found = [Who("nobody", "")]
    for role in LEVELS:
        token = asked.person(admin, f"the-{role}".lower(), role=role)
        found.append(Who(f"the {role}", token, role))
    owner = found[-1]
    asked.call("POST", "/clusters", admin, 201, json={"kind": "seed", "name": "there"})
    for role in ("viewer", "operator", "admin"):
        token = asked.person(admin, f"{role}-there")
        asked.call("PUT", f"/clusters/{THERE}/members/{role}-there", admin, 204, json={"role": role})
        found.append(Who(f"{role} there", token, there=role))
        token = asked.person(admin, f"{role}-elsewhere")
        asked.call("PUT", f"/clusters/1/members/{role}-elsewhere", admin, 204, json={"role": role})
        found.append(Who(f"{role} elsewhere", token, elsewhere=role))
    for scopes in [*[[scope.value] for scope in Scope], [scope.value for scope in Scope]]:
        body = {"name": "t", "scopes": scopes, "days": 1}
        token = asked.call("POST", "/me/tokens", owner.token, 201, json=body)["token"]
        found.append(Who(f"token {scopes}", token, owner.role, scopes=frozenset(scopes)))
    return found


def test_every_route_is_in_the_table(asked: Manager) -> None:
    document = asked.client.get(f"{API}/openapi.json").json()
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert found == set(ROUTES)


def test_each_may_what_the_table_says_and_nothing_else(asked: Manager, people: list[Who]) -> None:
    """With numbers that nothing has: who may is told that there is none, or that a field is missing."""
    wrong = []
    for (method, pattern), (least, scope) in ROUTES.items():
        path = pattern.replace("{cluster_id}", str(THERE))
        for name, value in NOT_THERE.items():
            path = path.replace(name, value)
        for who in people:
            headers = {"If-Match": '"0"'} | ({"Authorization": f"Bearer {who.token}"} if who.token else {})
            status = asked.client.request(method, path, headers=headers, json={}).status_code
            refused = status in {401, 403}
            if refused == who.may(least, scope) or status >= 500:
                wrong.append((who.name, method, path, status))
    assert wrong == []
