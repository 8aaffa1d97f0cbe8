"""Configurations of clusters: by REST, to services, and what these do with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cafs.core.live.document import DOCUMENT_BYTES, LiveConfig
from cafs.daemon.live_configuration import Held, LiveConfiguration
from cafs.errors import UsageError
from cafs.proto import manager_pb2, p2p_pb2
from tests.component.manager.test_services import A, host
from tests.support.logs import ExpectedLogs
from tests.support.managed_peers import Peer, peers
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres
from tests.support.program import cafs_command

PATH = "/clusters/1/configuration"
ANY = {"If-Match": "*"}


def set_to(manager: Manager, admin: str, document: dict[str, Any], cluster: int = 1) -> int:
    """The version that it has."""
    path = f"/clusters/{cluster}/configuration"
    made = manager.call("PUT", path, admin, json={"document": document}, headers=ANY)
    return int(made["version"])


def test_versions_are_kept_compared_and_restored(manager: Manager) -> None:
    admin = manager.administrator()
    nothing = manager.ask("GET", PATH, admin)
    assert (nothing.json()["version"], nothing.json()["document"], nothing.headers["etag"]) == (0, {}, '"0"')
    first = {"peer": {"upload_bytes_per_s": 1000}}
    second = {"peer": {"upload_bytes_per_s": 2000, "concurrent_pieces": 8}, "block": [{"tag": "old"}]}
    made = manager.ask(
        "PUT", PATH, admin, json={"document": first, "note": "why"}, headers={"If-Match": '"0"'}
    )
    assert (made.status_code, made.json()["version"], made.json()["who"]) == (200, 1, "root")
    assert made.json()["note"] == "why"
    would = manager.call("POST", f"{PATH}/check", admin, json={"document": second})
    assert would == {
        "block": {"before": None, "after": [{"tag": "old"}]},
        "peer.concurrent_pieces": {"before": None, "after": 8},
        "peer.upload_bytes_per_s": {"before": 1000, "after": 2000},
    }
    assert manager.call("GET", PATH, admin)["version"] == 1
    assert set_to(manager, admin, second) == 2
    assert set_to(manager, admin, second) == 2  # it says so already
    assert manager.call("GET", f"{PATH}/versions/2/changes", admin) == would
    assert set(manager.call("GET", f"{PATH}/versions/2/changes?since=0", admin)) == set(would)
    back = manager.call("POST", f"{PATH}/restore", admin, json={"version": 1}, headers=ANY)
    assert (back["version"], back["document"], back["restored"]) == (3, first, 1)
    none = manager.call("POST", f"{PATH}/restore", admin, json={"version": 0}, headers=ANY)
    assert (none["version"], none["document"]) == (4, {})
    versions = manager.call("GET", f"{PATH}/versions?limit=3", admin)
    assert [each["version"] for each in versions["items"]] == [4, 3, 2]
    rest = manager.call("GET", f"{PATH}/versions?before={versions['next']}", admin)
    assert [each["version"] for each in rest["items"]] == [1]
    assert manager.ask("GET", f"{PATH}/versions/5", admin).status_code == 404
    restored = manager.ask("POST", f"{PATH}/restore", admin, json={"version": 9}, headers=ANY)
    assert restored.status_code == 404
    audit = [
        c for c in manager.call("GET", "/audit", admin)["items"] if c["action"] == "configuration.change"
    ]
    assert len(audit) == 4
    assert audit[-1]["after"] == {"peer.upload_bytes_per_s": 1000}
    assert manager.call("GET", "/clusters/1", admin)["configuration"] == 4


def test_edits_that_conflict_are_told_what_differs(manager: Manager) -> None:
    admin = manager.administrator()
    codes: list[int] = []

    def edit(number: int) -> None:
        body = {"document": {"peer": {"concurrent_pieces": number}}}
        codes.append(manager.ask("PUT", PATH, admin, json=body, headers={"If-Match": '"0"'}).status_code)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(codes) == [200] + [409] * 5
    body = {"document": {"peer": {"concurrent_pieces": 99}}}
    stale = manager.ask("PUT", PATH, admin, json=body, headers={"If-Match": '"0"'})
    now = manager.call("GET", PATH, admin)["document"]["peer"]["concurrent_pieces"]
    assert stale.json()["differs"] == {"peer.concurrent_pieces": {"is": now, "sent": 99}}
    assert stale.json()["etag"] == '"1"'
    assert manager.ask("PUT", PATH, admin, json=body).status_code == 428


def test_documents_that_cannot_be_are_told_by_path(manager: Manager) -> None:
    admin = manager.administrator()
    document = {"peer": {"concurrent_pieces": 0, "x": 1}, "block": [{"url": "("}]}
    for path, method in ((PATH, "PUT"), (f"{PATH}/check", "POST")):
        answer = manager.ask(method, path, admin, json={"document": document}, headers=ANY)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:cafs:problem:invalid")
        assert [error["field"] for error in answer.json()["errors"]] == [
            "document.peer.x",
            "document.peer.concurrent_pieces",
            "document.block[0].url",
        ]
    seeds = {"document": {"scheduler": {"parents": 8}}}
    assert manager.ask("PUT", "/clusters/2/configuration", admin, json=seeds, headers=ANY).status_code == 422
    assert manager.call("GET", PATH, admin)["version"] == 0


def test_services_hear_of_it_and_say_what_they_run(manager: Manager) -> None:
    admin = manager.administrator()
    set_to(manager, admin, {"peer": {"concurrent_pieces": 8}})
    with channel_to(manager.ports.services) as channel:
        stream, seed = ServiceStream(channel), ServiceStream(channel, "b" * 32)
        stream.hello()
        told = stream.configured(1)
        assert told.cluster_id == 1
        assert json.loads(told.document) == {"peer": {"concurrent_pieces": 8}}
        seed.hello(kind=manager_pb2.SEED)
        seed.configured(0)
        assert host(manager, admin)["running"] is None
        stream.say(running=manager_pb2.Running(cluster_id=1, version=1))
        until(lambda: host(manager, admin)["running"] == 1)
        set_to(manager, admin, {})
        stream.configured(2)
        stream.say(running=manager_pb2.Running(cluster_id=1, version=1, refused="cannot"))
        until(lambda: host(manager, admin)["refused"] == "cannot")
        assert host(manager, admin)["running"] == 1
        stream.say(running=manager_pb2.Running(cluster_id=1, version=1, refused="\n"))
        assert stream.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_host_that_comes_says_what_it_runs(manager: Manager) -> None:
    admin = manager.administrator()
    with channel_to(manager.ports.services) as channel:
        stream, other = ServiceStream(channel), ServiceStream(channel, "b" * 32)
        stream.hello(running=manager_pb2.Running(cluster_id=1, version=7))
        other.hello(running=manager_pb2.Running(cluster_id=99, version=7))
        assert host(manager, admin)["running"] == 7
        assert host(manager, admin, "b" * 32)["running"] is None


def test_a_change_by_one_replica_reaches_the_hosts_of_another(tmp_path: Path, postgres: Postgres) -> None:
    options = options_for(tmp_path, postgres.url(postgres.new_database()))
    with running_manager(options) as one, running_manager(options) as other:
        admin = one.administrator()
        with channel_to(other.ports.services) as channel:
            stream = ServiceStream(channel)
            stream.hello()
            stream.configured(0)
            set_to(one, admin, {"peer": {"concurrent_pieces": 8}})
            stream.configured(1)


def test_a_moved_host_hears_its_new_clusters_configuration(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"kind": "scheduler", "name": "gpu"}
    number = manager.call("POST", "/clusters", admin, 201, json=body)["id"]
    set_to(manager, admin, {"peer": {"concurrent_pieces": 8}}, number)
    with channel_to(manager.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello(hostname="gpu-7")
        stream.configured(0)
        changes = {"scopes": {"hostnames": ["gpu-*"]}}
        manager.call("PATCH", f"/clusters/{number}", admin, json=changes, headers=ANY)
        assert stream.hear("placed").cluster_id == number
        assert stream.configured(1).cluster_id == number


# What a service does with one


class Obeys:
    """Takes what it is told, except what it is told not to."""

    def __init__(self) -> None:
        self.live: list[LiveConfig] = []
        self.refuses = False

    def __call__(self, live: LiveConfig) -> None:
        if self.refuses:
            raise UsageError("cannot\nbe")
        self.live.append(live)


def told(version: int, document: bytes, cluster: int = 1) -> manager_pb2.Configuration:
    return manager_pb2.Configuration(cluster_id=cluster, version=version, document=document)


def test_what_is_taken_is_kept_and_recalled(tmp_path: Path) -> None:
    obeys, path = Obeys(), tmp_path / "deep" / "kept.json"
    live = LiveConfiguration(path, "scheduler", obeys)
    live.recall()
    assert obeys.live == []
    assert live.take(told(3, b'{"peer": {"concurrent_pieces": 8}}')) == manager_pb2.Running(
        cluster_id=1, version=3
    )
    again = Obeys()
    recalled = LiveConfiguration(path, "scheduler", again)
    recalled.recall()
    assert again.live == obeys.live == [LiveConfig(peer={"concurrent_pieces": 8})]
    assert recalled.held == Held(1, 3)
    recalled.take(told(3, b'{"peer": {"concurrent_pieces": 8}}'))
    assert len(again.live) == 1  # it holds already, and what was changed on the spot stays
    recalled.take(told(3, b'{"peer": {"concurrent_pieces": 9}}'))  # by a manager whose database is a copy
    assert again.live[-1] == LiveConfig(peer={"concurrent_pieces": 9})
    recalled.take(told(0, b"", cluster=0))
    assert again.live[-1] == LiveConfig()


@pytest.mark.parametrize(
    "document", [b"{", b"[]", b'{"peer": {"concurrent_pieces": 0}}', b'{"new_section": {}}', b"[" * 100_000]
)
def test_what_cannot_be_obeyed_is_refused_and_the_last_one_holds(
    tmp_path: Path, expected_logs: ExpectedLogs, document: bytes
) -> None:
    expected_logs.expect("configuration 4 of cluster 1 is refused")
    obeys = Obeys()
    live = LiveConfiguration(tmp_path / "kept.json", "scheduler", obeys)
    live.take(told(3, b"{}"))
    running = live.take(told(4, document))
    assert (running.version, bool(running.refused), running.refused.isprintable()) == (3, True, True)
    assert len(obeys.live) == 1
    assert live.held == Held(1, 3)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (told(4, b"[" * (DOCUMENT_BYTES + 1)), "larger than 256 KiB"),
        (told(1 << 31, b"{}"), "such numbers"),
        (told(4, b"{}", cluster=1 << 31), "such numbers"),
        (told(4, json.dumps({"a\nb\x1b": 1}).encode()), "a b  is unknown"),
    ],
)
def test_what_is_refused_is_neither_read_whole_nor_told_as_it_is(
    tmp_path: Path,
    expected_logs: ExpectedLogs,
    caplog: pytest.LogCaptureFixture,
    wrong: manager_pb2.Configuration,
    why: str,
) -> None:
    """Numbers that the file of the next start cannot have, megabytes of text, and lines of the log's."""
    expected_logs.expect("is refused")
    obeys = Obeys()
    live = LiveConfiguration(tmp_path / "kept.json", "scheduler", obeys)
    live.take(told(3, b"{}"))
    running = live.take(wrong)
    assert (running.version, why in running.refused, live.held) == (3, True, Held(1, 3))
    [said] = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert said.isprintable()
    assert len(said) < 1100


def test_what_the_service_refuses_is_not_kept(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("refused")
    obeys = Obeys()
    live = LiveConfiguration(tmp_path / "kept.json", "scheduler", obeys)
    obeys.refuses = True
    assert live.take(told(1, b"{}")).refused == "cannot be"
    assert not (tmp_path / "kept.json").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"cluster_id": 1}', '{"cluster_id": 1, "version": -1, "document": {}}',
             '{"cluster_id": 1, "version": 1, "document": {"x": 1}}', "[" * 100_000, "x" * (1 << 21)]
)  # fmt: skip
def test_a_kept_file_that_is_damaged_is_as_good_as_none(
    tmp_path: Path, expected_logs: ExpectedLogs, text: str
) -> None:
    expected_logs.expect("is not used")
    path, obeys = tmp_path / "kept.json", Obeys()
    path.write_text(text)
    live = LiveConfiguration(path, "scheduler", obeys)
    live.recall()
    assert (obeys.live, live.held) == ([], Held())
    live.take(told(1, b"{}"))
    assert json.loads(path.read_text())["version"] == 1


# Real services


def test_a_peer_obeys_and_goes_on_without_the_manager(short_tmp_path: Path) -> None:
    folder = short_tmp_path
    with running_manager(options_for(folder / "m")) as manager:
        admin = manager.administrator()
        where = f"--set=managers=127.0.0.1:{manager.ports.services}"
        own = ("--set=concurrent_uploads=5", "--set=concurrent_pieces=6")
        peer = Peer(folder / "p", where, *own)
        with peers(peer):
            assert (peer.limit("concurrent_uploads"), peer.limit("concurrent_pieces")) == (5, 6)
            document = {
                "peer": {"concurrent_uploads": 17},
                "block": [{"url": "forbidden"}, {"application": "batch"}],
            }
            version = set_to(manager, admin, document)
            until(lambda: peer.limit("concurrent_uploads") == 17)
            assert peer.limit("concurrent_pieces") == 6
            (known,) = manager.call("GET", "/hosts", admin)["items"]
            until(lambda: host(manager, admin, known["id"])["running"] == version)
            peer.process.send_signal(
                1
            )  # SIGHUP: its own configuration says 5 still, and the manager's is on top
            for wish in (
                {"url": "http://127.0.0.1:1/forbidden"},
                {"url": "http://x/y", "application": "batch"},
            ):
                status, answer = peer.ask("POST", "/v1/download", wish)
                assert (status, answer["reason"]) == (409, "blocked")
                assert "blocked" in answer["error"]
            assert peer.limit("concurrent_uploads") == 17
            peer.stop()
    later = Peer(folder / "p", where, *own)  # the manager is gone
    with peers(later):
        assert later.limit("concurrent_uploads") == 17
        assert later.ask("POST", "/v1/download", {"url": "http://x/y", "application": "batch"})[0] == 409
    alone = Peer(folder / "p", *own)  # it has none any more
    with peers(alone):
        assert alone.limit("concurrent_uploads") == 5


def test_a_proxy_obeys(tmp_path: Path) -> None:
    with running_manager(options_for(tmp_path / "m")) as manager:
        admin = manager.administrator()
        command = cafs_command(
            "proxy", "--listen", "127.0.0.1:0", "--no-p2p", f"--set=cache_dir={tmp_path}",
            f"--set=managers=127.0.0.1:{manager.ports.services}", "--set=proxy_rules=blocked own",
        )  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                port = int(process.stderr.readline().rpartition(":")[2])
                until(lambda: len(manager.call("GET", "/hosts?kind=proxy", admin)["items"]) == 1)
                (known,) = manager.call("GET", "/hosts?kind=proxy", admin)["items"]
                assert known["address"] == f"127.0.0.1:{port}"
                assert blocked_by_rule(port, "own")
                assert not blocked_by_rule(port, "theirs")  # but loopback is guarded
                version = set_to(manager, admin, {"proxy": {"rules": ["blocked theirs"]}})
                until(lambda: host(manager, admin, known["id"])["running"] == version)
                assert blocked_by_rule(port, "own")
                assert blocked_by_rule(port, "theirs")
            finally:
                process.terminate()
                process.wait(PATIENCE_S)


def blocked_by_rule(port: int, path: str) -> bool:
    """Whether it was a rule that refused it."""
    return "blocked by a rule" in asked_of_proxy(port, path)


def asked_of_proxy(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        target = f"http://127.0.0.1:1/{path}"
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n".encode()
        )
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_a_scheduler_obeys(tmp_path: Path) -> None:
    with running_manager(options_for(tmp_path / "m")) as manager:
        admin = manager.administrator()
        command = cafs_command(
            "scheduler", "--listen", "127.0.0.1:0", f"--set=cache_dir={tmp_path}",
            f"--set=managers=127.0.0.1:{manager.ports.services}",
        )  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ)) as process:
            try:
                until(lambda: len(manager.call("GET", "/hosts", admin)["items"]) == 1)
                (known,) = manager.call("GET", "/hosts", admin)["items"]
                port = int(known["address"].rpartition(":")[2])
                assert why_refused(port, "batch") != "blocked"
                document = {"scheduler": {"source_peers": 2}, "block": [{"application": "batch"}]}
                version = set_to(manager, admin, document)
                until(lambda: host(manager, admin, known["id"])["running"] == version)
                assert why_refused(port, "batch") == "blocked"
                assert why_refused(port, "other") != "blocked"
            finally:
                process.terminate()
                assert process.wait(PATIENCE_S) == 0


def why_refused(port: int, application: str) -> str:
    """What a scheduler says to a download; empty: it takes it."""
    from cafs.proto.services import methods_of  # noqa: PLC0415 - only here

    connect = next(m for m in methods_of(p2p_pb2.DESCRIPTOR, "Scheduler") if m.name == "Connect")
    hello = p2p_pb2.HostHello(
        protocol_version=1, host_id=A, address="127.0.0.1:7000", concurrent_upload_limit=8
    )
    spec = p2p_pb2.TaskSpec(task_id="7" * 64, url="https://o/f", application=application, priority=3)
    register = p2p_pb2.PeerRegister(peer_id="1" * 32, task=spec)
    said = [p2p_pb2.FromHost(hello=hello), p2p_pb2.FromHost(register=register)]

    def messages() -> Iterator[p2p_pb2.FromHost]:
        yield from said
        heard.wait(PATIENCE_S)

    heard = threading.Event()
    with channel_to(port) as channel:
        call = channel.stream_stream(connect.path, connect.serialize_request, connect.parse_response)
        try:
            for message in call(messages(), timeout=PATIENCE_S):
                kind = message.WhichOneof("message")
                if kind in {"refused", "members", "source"}:
                    return message.refused.why if kind == "refused" else ""
        finally:
            heard.set()
    raise AssertionError("it said nothing")
