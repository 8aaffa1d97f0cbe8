"""``cafs manager`` as a program: start, end, health, figures, and what is refused before anybody is asked."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cafs.errors import StateError, UsageError
from cafs.manager.database import parse_database
from cafs.manager.replica import Heartbeats
from cafs.proto import health_pb2
from tests.support.logs import ExpectedLogs
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ask_health, channel_to, until
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres, running_postgres
from tests.support.program import cafs_command, run_cafs

SERVING = health_pb2.HealthCheckResponse.SERVING


def test_health_over_both(manager: Manager) -> None:
    answer = manager.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "serving")

    with channel_to(manager.ports.services) as channel:
        assert ask_health(channel) == SERVING
        with pytest.raises(grpc.RpcError):
            ask_health(channel, "other")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", "/nowhere", 404, "unknown"), ("PUT", "/healthz", 405, "method")],
)
def test_what_is_not_there_is_a_problem(
    tmp_path: Path, method: str, path: str, status: int, kind: str
) -> None:
    with running_manager(options_for(tmp_path)) as manager:
        answer = manager.ask(method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        problem = answer.json()
        assert (answer.status_code, problem["status"]) == (status, status)
        assert problem["type"] == f"urn:cafs:problem:{kind}"


def test_bodies_are_bounded_however_they_are_sent(tmp_path: Path) -> None:
    with running_manager(options_for(tmp_path)) as manager:
        big = b"x" * ((1 << 20) + 1)
        for body in (big, iter([big[: 1 << 19], big[1 << 19 :]])):
            answer = manager.ask("POST", "/healthz", content=body)
            assert (answer.status_code, answer.json()["type"]) == (413, "urn:cafs:problem:too_large")
        nonsense = manager.ask("POST", "/healthz", content=b"x" * (1 << 20))
        assert nonsense.status_code == 405


def test_a_database_that_goes_away_and_comes_back(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.allow("no beat|answers again")
    with running_postgres() as server:
        database = server.new_database()
        with running_manager(options_for(tmp_path, server.url(database))) as manager:
            assert manager.ask("GET", "/healthz").status_code == 200
            server.stop()
            answer = manager.ask("GET", "/healthz")
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:cafs:problem:unavailable")
            assert answer.headers["retry-after"]
            assert server.password not in answer.text
            server.start_again()
            assert manager.ask("GET", "/healthz").status_code == 200


def test_replicas_know_of_each_other(tmp_path: Path, postgres: Postgres) -> None:
    database = postgres.new_database()
    options = options_for(tmp_path, postgres.url(database))
    with running_manager(options), running_manager(options) as second:
        assert second.ask("GET", "/healthz").status_code == 200
        assert postgres.ask(database, "SELECT count(*) FROM replica") == [(2,)]
    assert postgres.ask(database, "SELECT count(*) FROM replica") == [(0,)]


def test_a_replica_whose_count_stands_still_is_gone() -> None:
    seen = Heartbeats(gone_after_s=10)
    assert seen.note({"a": 1, "b": 1}, 0) == []
    assert seen.note({"a": 2, "b": 1}, 9) == []
    assert seen.note({"a": 3, "b": 1, "c": 7}, 11) == ["b"]
    assert seen.note({"a": 3, "c": 7}, 12) == []


def test_a_second_manager_on_the_same_file_is_refused(tmp_path: Path) -> None:
    options = options_for(tmp_path)
    with (
        running_manager(options),
        pytest.raises(StateError, match="another cafs manager runs"),
        running_manager(options),
    ):
        pass


def test_it_warns_of_passwords_in_the_clear(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("in the clear on http://0.0.0.0:")
    with running_manager(options_for(tmp_path, rest=("0.0.0.0", 0))) as manager:
        assert manager.ask("GET", "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("mysql://u:hunter2@h/d", "neither"),
        ("hunter2", "no address"),
        ("sqlite:///hunter2.db", "absolute"),
    ],
)
def test_addresses_of_databases_that_cannot_be(address: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        parse_database(address, Path("/x"))
    assert "hunter2" not in str(caught.value)


def test_the_program_serves_until_sigterm(tmp_path: Path) -> None:
    command = cafs_command(
        "manager", "--listen", "127.0.0.1:0", "--rest", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
        "--set", f"cache_dir={tmp_path}",
    )  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        text = ""
        told = r"metrics on port (\d+)[\s\S]*REST on (http://127\.0\.0\.1:\d+)"
        while not (found := re.search(told, text)):
            line = process.stderr.readline()
            assert line, text
            text += line
        with urllib.request.urlopen(f"{found[2]}/healthz", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
        port = int(found[1])
        until(lambda: figures(port).get(("cafs_manager_requests_total", "/healthz")) == 1)
        assert figures(port)["cafs_manager_replicas", None] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in process.stderr.read()
    assert (tmp_path / "manager").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "manager" / "manager.db").stat().st_mode & 0o777 == 0o600


def figures(port: int) -> dict[tuple[str, str | None], float]:
    """By name and route."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, sample.labels.get("route")): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--rest", "nowhere"], "--rest"),
        (["--tls-ca", "x.pem"], "--tls-cert"),
        (["--set", "manager_database=oracle://x"], "neither"),
    ],
)
def test_wrong_options_are_a_usage_error(arguments: list[str], word: str) -> None:
    assert word in run_cafs("manager", *arguments, code=2).err


def test_without_its_library_there_is_no_console_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    caplog.set_level("INFO")
    with running_manager(options_for(tmp_path, console=True)) as manager:
        assert manager.ask("GET", "/console/").status_code == 404
        assert manager.ask("GET", "/healthz").status_code == 200
        secret = manager.setup_link
        assert "<form" in manager.ask("GET", f"/setup?link={secret}").text  # people come in all the same
    assert "pip install 'cafs[console]'" in caplog.text
