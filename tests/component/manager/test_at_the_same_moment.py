"""What another replica changes between a look and what follows from it. PostgreSQL: SQLite has one writer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cafs.manager.oidc.provider import Provider
from tests.support.manager import PASSWORD, options_for, running_manager
from tests.support.manager_client import until
from tests.support.openid import CLIENT, running_openid, sign_in
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres

WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.new_database()


def meanwhile(postgres: Postgres, database: str, statement: str, work: Callable[[], Any]) -> tuple[int, str]:
    """What comes of a request that has to wait for a change of somebody else's, once that is done."""
    with psycopg.connect(postgres.url(database)) as other, ThreadPoolExecutor(1) as threads:
        other.execute(statement)
        asked = threads.submit(work)
        until(lambda: asked.done() or postgres.ask(database, WAITS) != [(0,)])
        other.commit()
        answer = asked.result(PATIENCE_S)
    return answer.status_code, answer.json().get("type", "").rpartition(":")[2]


def test_a_job_for_a_cluster_that_is_removed(tmp_path: Path, postgres: Postgres, database: str) -> None:
    with running_manager(options_for(tmp_path, postgres.url(database))) as manager:
        admin = manager.administrator()
        made = manager.call("POST", "/clusters", admin, 201, json={"kind": "scheduler", "name": "gpu"})
        body = {"kind": "gc", "cluster_id": made["id"]}
        found = meanwhile(
            postgres,
            database,
            f"DELETE FROM cluster WHERE id = {made['id']}",
            lambda: manager.ask("POST", "/jobs", admin, json=body),
        )
        assert found == (409, "state")
        assert manager.call("GET", "/jobs", admin)["items"] == []


@pytest.mark.parametrize("change", ["disabled = true", "password_hash = 'another'"])
def test_a_sign_in_of_who_may_not_any_more(
    tmp_path: Path, postgres: Postgres, database: str, change: str
) -> None:
    with running_manager(options_for(tmp_path, postgres.url(database))) as manager:
        manager.person(manager.administrator(), "alice")
        body = {"name": "alice", "password": PASSWORD}
        found = meanwhile(
            postgres,
            database,
            f"UPDATE account SET {change} WHERE name = 'alice'",
            lambda: manager.ask("POST", "/api/v1/sessions", json=body),
        )
        assert found == (401, "unauthenticated")


def test_two_of_one_name_who_come_by_the_provider(tmp_path: Path, postgres: Postgres, database: str) -> None:
    with running_openid() as openid:
        openid.person("s-2", preferred_username="alice")
        provider = Provider(issuer=openid.issuer, client_id=CLIENT, client_secret="s3cret")
        options = options_for(tmp_path, postgres.url(database), provider=provider)
        with running_manager(options) as manager:
            body = {"name": "alice", "role": "admin", "oidc": True}
            manager.call("POST", "/users", manager.administrator(), 201, json=body)
            found = meanwhile(
                postgres,
                database,
                "UPDATE account SET oidc_subject = 'of the first' WHERE name = 'alice'",
                lambda: sign_in(manager, openid, "s-2"),
            )
            assert found == (403, "denied")
