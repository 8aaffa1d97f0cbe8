"""Databases that cannot be used, or not now: what is told of it, and that all goes on afterwards."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from cafs.errors import UnavailableError
from cafs.manager.database import Database, parse_database
from cafs.manager.migrate import upgrade
from cafs.manager.replica import Pace
from tests.support.logs import ExpectedLogs
from tests.support.manager import options_for, running_manager
from tests.support.manager_client import until
from tests.support.postgres import Postgres
from tests.support.program import run_cafs

NOT_NOW = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no more rows' USING ERRCODE = 'read_only_sql_transaction'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON replica EXECUTE FUNCTION refuse();
DELETE FROM replica;
"""


def test_a_start_says_what_is_wrong_with_its_database(tmp_path: Path, postgres: Postgres) -> None:
    good = postgres.url(postgres.new_database())
    postgres.tell("postgres", "CREATE ROLE small LOGIN PASSWORD 'hunter2'")
    damaged = tmp_path / "m" / "x.db"
    damaged.parent.mkdir()
    damaged.write_text("no database")
    for address, words in (
        (postgres.url("nosuch"), 'database "nosuch" does not exist'),
        (good.replace(f"cafs:{postgres.password}", "small:hunter2"), "permission denied for schema"),
        (good + "?passwort=hunter2", 'invalid connection option "passwort"'),
        (f"sqlite:///{damaged}", "file is not a database"),
    ):
        with (
            pytest.raises(UnavailableError, match=f"manager_database .*{words}") as caught,
            Database(parse_database(address, tmp_path / "unused")) as database,
        ):
            upgrade(database)
        assert not {"hunter2", postgres.password} & set(re.split(r"\W", str(caught.value)))


def test_a_wrong_password_is_told_by_the_program(tmp_path: Path, postgres: Postgres) -> None:
    said = run_cafs(
        "manager", "--rest", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--set", f"cache_dir={tmp_path}",
        "--set", f"manager_database={postgres.url().replace(postgres.password, 'hunter2')}", code=1,
    ).err  # fmt: skip
    assert "password authentication failed" in said
    assert "hunter2" not in said


def test_a_server_without_an_encoding(tmp_path: Path, postgres: Postgres) -> None:
    """As one is that was set up where no locale is."""
    name = postgres.new_database()
    postgres.tell("postgres", f"CREATE DATABASE {name}c ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    with running_manager(options_for(tmp_path, postgres.url(f"{name}c"))) as manager:
        admin = manager.administrator()
        made = manager.call("POST", "/clusters", admin, 201, json={"kind": "seed", "name": "Köln 東京"})
        assert manager.call("GET", f"/clusters/{made['id']}", admin)["name"] == "Köln 東京"


def test_a_host_of_the_database_that_is_gone_without_a_word_is_noticed(postgres: Postgres) -> None:
    """The kernel's own patience is a quarter of an hour, and for an answer without end."""
    address = postgres.url(postgres.new_database())
    with Database(parse_database(address, Path("/nowhere"))) as database, database.reading() as session:
        connection = session.connection().connection.driver_connection
        assert connection is not None
        with socket.socket(fileno=connection.fileno()) as way:
            try:
                assert way.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
                assert way.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert way.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
            finally:
                way.detach()


def beats(postgres: Postgres, name: str) -> int:
    return int(postgres.ask(name, "SELECT coalesce(max(beats), 0) FROM replica")[0][0])


def read_only(postgres: Postgres, name: str, word: str) -> None:
    """From the next connections on, of which there are none at this moment."""
    postgres.tell("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = {word}")
    postgres.ask(
        "postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )


def test_a_database_that_takes_no_changes_for_a_while(
    tmp_path: Path, postgres: Postgres, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a failover to a server that is still a standby."""
    expected_logs.allow("no beat|the database answers again")
    name = postgres.new_database()
    options = options_for(tmp_path, postgres.url(name), pace=Pace(beat_s=0.1))
    with running_manager(options) as manager:
        admin = manager.administrator()
        read_only(postgres, name, "on")
        until(lambda: manager.ask("GET", "/me", admin).status_code == 200)
        answer = manager.ask("POST", "/users", admin, json={"name": "alice"})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:cafs:problem:unavailable")
        until(lambda: "no beat" in caplog.text)
        read_only(postgres, name, "off")
        before = beats(postgres, name)
        until(lambda: beats(postgres, name) > before)
        until(lambda: manager.ask("POST", "/users", admin, json={"name": "alice"}).status_code == 201)


def test_a_replica_that_was_taken_for_gone_comes_back_however_long_it_takes(
    tmp_path: Path, postgres: Postgres, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.expect("another replica took this one for gone")
    expected_logs.expect("no beat: .*no more rows")
    expected_logs.allow("the database answers again")
    name = postgres.new_database()
    with running_manager(options_for(tmp_path, postgres.url(name), pace=Pace(beat_s=0.1))):
        postgres.tell(name, NOT_NOW)
        until(lambda: "no more rows" in caplog.text)
        postgres.tell(name, "DROP TRIGGER refuse ON replica")
        until(lambda: beats(postgres, name) > 0)
