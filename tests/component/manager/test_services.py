"""Schedulers, seeds and peers with the manager, over real gRPC, on both databases."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cafs.core.live.document import LiveConfig
from cafs.daemon.grpc_client import LinkTls
from cafs.daemon.grpc_server import Tls
from cafs.daemon.live_configuration import Held, LiveConfiguration
from cafs.daemon.manager_link import ManagerLink, ServiceFacts
from cafs.manager.replica import Pace
from cafs.proto import health_pb2, manager_pb2
from tests.component.test_scheduler import Authority
from tests.support.logs import ExpectedLogs
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, ask_health, channel_to, until
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres, running_postgres
from tests.support.program import ROOT, cafs_command

A, B = "a" * 32, "b" * 32
QUICK = Pace(alive_every_s=1.0)
BEATS = Pace(beat_s=0.1, gone_after_s=3.0)
"""Replicas soon see that one is gone; services need not say that they live."""
TAKEN_FOR_GONE = "another replica took this one for gone"
"""What one on a busy machine may have to say where others look that soon."""
ANY = {"If-Match": "*"}


def run(port: int, work: Callable[[grpc.Channel], None]) -> None:
    """With a channel to a manager."""
    with channel_to(port) as channel:
        work(channel)


def host(manager: Manager, admin: str, host_id: str = A) -> dict[str, Any]:
    found: dict[str, Any] = manager.call("GET", f"/hosts/{host_id}", admin)
    return found


def test_a_host_comes_finds_its_cluster_and_goes(manager: Manager) -> None:
    admin = manager.administrator()

    def work(channel: grpc.Channel) -> None:
        stream = ServiceStream(channel)
        placed = stream.hello(idc="fra1", location="europe|zone3", hostname="gpu-7")
        assert (placed.cluster_id, placed.cluster_name) == (1, "default")
        known = host(manager, admin)
        assert known["active"]
        assert {name: known[name] for name in ("kind", "hostname", "address", "idc", "location")} == {
            "kind": "peer", "hostname": "gpu-7", "address": "10.1.2.3:7000", "idc": "fra1",
            "location": "europe|zone3",
        }  # fmt: skip
        assert manager.ask("DELETE", f"/hosts/{A}", admin).status_code == 409
        stream.say(leaving=manager_pb2.Leaving())
        assert (stream.ended())[0] is grpc.StatusCode.OK
        until(lambda: not host(manager, admin)["active"])
        manager.call("DELETE", f"/hosts/{A}", admin, 204)
        assert manager.ask("GET", f"/hosts/{A}", admin).status_code == 404

    run(manager.ports.services, work)


def test_hosts_find_other_clusters_when_those_change(manager: Manager) -> None:
    admin = manager.administrator()

    def work(channel: grpc.Channel) -> None:
        stream, seed = ServiceStream(channel), ServiceStream(channel, B)
        stream.hello(hostname="gpu-7")
        assert (seed.hello(kind=manager_pb2.SEED)).cluster_id == 2
        body = {"kind": "scheduler", "name": "gpu", "scopes": {"hostnames": ["gpu-*"]}}
        made = manager.call("POST", "/clusters", admin, 201, json=body)
        assert (stream.hear("placed")).cluster_name == "gpu"
        until(lambda: host(manager, admin)["cluster_id"] == made["id"])
        path = f"/clusters/{made['id']}"
        assert manager.call("GET", path, admin)["active_hosts"] == 1
        manager.call("DELETE", path, admin, 204, headers=ANY)
        assert (stream.hear("placed")).cluster_id == 1
        until(lambda: host(manager, admin)["cluster_id"] == 1)

    run(manager.ports.services, work)


def test_a_host_that_nobody_wants_has_no_cluster(manager: Manager) -> None:
    admin = manager.administrator()
    manager.call("PATCH", "/clusters/1", admin, json={"is_default": False}, headers=ANY)

    def work(channel: grpc.Channel) -> None:
        stream = ServiceStream(channel)
        placed = stream.hello()
        while placed.cluster_id:  # the change is on its way
            placed = stream.hear("placed")
        until(lambda: host(manager, admin)["cluster_id"] is None)

    run(manager.ports.services, work)


def test_a_newer_stream_of_a_host_takes_over(manager: Manager) -> None:
    admin = manager.administrator()

    def work(channel: grpc.Channel) -> None:
        old, new = ServiceStream(channel), ServiceStream(channel)
        old.hello()
        new.hello(address="10.1.2.4:7000")
        assert (old.ended())[0] is grpc.StatusCode.ALREADY_EXISTS
        assert [host(manager, admin)[name] for name in ("active", "address")] == [True, "10.1.2.4:7000"]

    run(manager.ports.services, work)


def test_a_silent_host_is_inactive(tmp_path: Path, database_address: str) -> None:
    with running_manager(options_for(tmp_path, database_address, pace=QUICK)) as manager:
        admin = manager.administrator()

        def work(channel: grpc.Channel) -> None:
            silent, speaks = ServiceStream(channel), ServiceStream(channel, B)
            silent.hello()
            speaks.hello()
            with saying_that_it_lives(speaks):
                until(lambda: not host(manager, admin)["active"])
                assert silent.ended()[0] is grpc.StatusCode.DEADLINE_EXCEEDED
                assert host(manager, admin, B)["active"]

        run(manager.ports.services, work)


@contextmanager
def saying_that_it_lives(stream: ServiceStream) -> Iterator[None]:
    """However long the test waits for answers meanwhile."""
    end = threading.Event()

    def speak() -> None:
        while not end.wait(0.05):
            stream.say(alive=manager_pb2.Alive())

    speaking = threading.Thread(target=speak)
    speaking.start()
    try:
        yield
    finally:
        end.set()
        speaking.join()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"protocol_version": 2}, "version"),
        ({"host_id": "A" * 32}, "host_id"),
        ({"host_id": ""}, "host_id"),
        ({"kind": 0}, "kind"),
        ({"kind": 9}, "kind"),
        ({"address": "0.0.0.0:1"}, "address"),
        ({"address": "host:1"}, "address"),
        ({"address": "10.0.0.1:65536"}, "address"),
        ({"hostname": "x" * 256}, "hostname"),
        ({"idc": "a\x1b[2J"}, "idc"),
        ({"location": "a|" * 200}, "location"),
        ({"version": "\0"}, "version"),
    ],
)
def test_hellos_that_are_none(one: Manager, fields: dict[str, Any], word: str) -> None:
    def work(channel: grpc.Channel) -> None:
        stream = ServiceStream(channel)
        stream.send_hello(**fields)
        code, why = stream.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert word in why

    run(one.ports.services, work)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """For what leaves nothing behind."""
    with running_manager(options_for(tmp_path_factory.mktemp("manager"))) as running:
        yield running


def test_a_bad_stream_disturbs_no_other(one: Manager) -> None:
    def work(channel: grpc.Channel) -> None:
        good, twice, no_hello = (ServiceStream(channel, 32 * letter) for letter in "abc")
        good.hello()
        twice.hello()
        twice.send_hello()
        assert (twice.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        no_hello.say(alive=manager_pb2.Alive())
        assert (no_hello.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        good.say(leaving=manager_pb2.Leaving())
        assert (good.ended())[0] is grpc.StatusCode.OK

    run(one.ports.services, work)


def test_health_knows_the_service(one: Manager) -> None:
    def work(channel: grpc.Channel) -> None:
        assert ask_health(channel, "cafs.manager.v1.Manager") == health_pb2.HealthCheckResponse.SERVING

    run(one.ports.services, work)


def test_hosts_of_clusters_that_one_may_not_see_are_not_there(manager: Manager) -> None:
    admin = manager.administrator()
    alice = manager.person(admin, "alice")
    manager.call("PUT", "/clusters/2/members/alice", admin, 204, json={"role": "operator"})

    def work(channel: grpc.Channel) -> None:
        for number in range(5):
            ServiceStream(channel, f"{number:032x}").hello()
        ServiceStream(channel, B).hello(kind=manager_pb2.SEED)

    run(manager.ports.services, work)
    assert [found["id"] for found in manager.call("GET", "/hosts", alice)["items"]] == [B]
    assert manager.ask("GET", f"/hosts/{0:032x}", alice).status_code == 404
    assert manager.ask("DELETE", f"/hosts/{0:032x}", alice).status_code == 404
    ids, after = [], ""
    while after is not None:
        page = manager.call("GET", f"/hosts?kind=peer&limit=2&after={after}", admin)
        ids += [found["id"] for found in page["items"]]
        after = page["next"]
    assert ids == [f"{number:032x}" for number in range(5)]


def test_a_manager_that_ends_tells_its_hosts_to_come_again(tmp_path: Path, database_address: str) -> None:
    options = options_for(tmp_path, database_address)

    def work(channel: grpc.Channel) -> None:
        stream = ServiceStream(channel)
        stream.hello()
        stack.__exit__(None, None, None)
        assert stream.ended()[0] is grpc.StatusCode.UNAVAILABLE

    stack = running_manager(options)
    manager = stack.__enter__()
    admin = manager.administrator()
    run(manager.ports.services, work)
    with running_manager(options) as again:
        assert not host(again, admin)["active"]


def test_hosts_of_a_killed_replica_are_inactive_until_they_come_by_another(
    tmp_path: Path, postgres: Postgres, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow(TAKEN_FOR_GONE)
    address = postgres.url(postgres.new_database())
    with running_manager(options_for(tmp_path, address, pace=BEATS)) as manager:
        admin = manager.administrator()
        with other_replica(tmp_path, address) as (process, port):

            def work(channel: grpc.Channel) -> None:
                stream = ServiceStream(channel)  # one that nobody refers to is broken off
                stream.hello()
                until(lambda: host(manager, admin)["active"])
                process.send_signal(signal.SIGKILL)
                until(lambda: not host(manager, admin)["active"])
                with channel_to(manager.ports.services) as to_another:
                    again = ServiceStream(to_another)
                    again.hello()
                    until(lambda: host(manager, admin)["active"])

            run(port, work)


REPLICA = """
import asyncio, sys
from pathlib import Path
from cafs.manager.program import served
from tests.component.manager.test_services import BEATS
from tests.support.manager import options_for

async def main():
    async with served(options_for(Path(sys.argv[1]), sys.argv[2], pace=BEATS)) as ports:
        print(ports.services, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def other_replica(tmp_path: Path, address: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A manager as a process of its own, that can be killed."""
    command = [sys.executable, "-c", REPLICA, str(tmp_path), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_a_replica_that_others_took_for_gone_says_all_again(
    tmp_path: Path, postgres: Postgres, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect(TAKEN_FOR_GONE)
    database = postgres.new_database()
    with running_manager(options_for(tmp_path, postgres.url(database), pace=BEATS)) as manager:
        admin = manager.administrator()
        with channel_to(manager.ports.services) as channel:
            stream = ServiceStream(channel)
            stream.hello()
            postgres.ask(database, "UPDATE host SET active = false RETURNING id")
            postgres.ask(database, "DELETE FROM replica RETURNING id")
            until(lambda: host(manager, admin)["active"])
            assert postgres.ask(database, "SELECT count(*) FROM replica") == [(1,)]


def test_a_killed_manager_on_sqlite_knows_all_but_who_is_here(tmp_path: Path) -> None:
    with other_replica(tmp_path, "") as (process, port), channel_to(port) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        process.send_signal(signal.SIGKILL)
        assert stream.ended()[0] is grpc.StatusCode.UNAVAILABLE
        process.wait(PATIENCE_S)
    with running_manager(options_for(tmp_path)) as manager:
        admin = manager.administrator()
        assert not host(manager, admin)["active"]
        with channel_to(manager.ports.services) as channel:
            again = ServiceStream(channel)
            again.hello()
            assert host(manager, admin)["active"]


def test_hosts_are_active_again_after_the_database_was_away(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("no beat|answers again")
    with running_postgres() as server:
        options = options_for(tmp_path, server.url(server.new_database()), pace=BEATS)
        with running_manager(options) as manager:
            admin = manager.administrator()

            def work(channel: grpc.Channel) -> None:
                stays, comes = ServiceStream(channel), ServiceStream(channel, B)
                stays.hello()
                server.stop()
                comes.send_hello()
                assert (comes.ended())[0] is grpc.StatusCode.UNAVAILABLE
                server.start_again()
                again = ServiceStream(channel, B)
                again.hello()
                assert host(manager, admin)["active"]
                assert host(manager, admin, B)["active"]

            run(manager.ports.services, work)


def linked(
    where: list[str],
    who: ServiceFacts,
    tls: LinkTls | None,
    folder: Path,
    heard: list[LiveConfig] | None = None,
) -> ManagerLink:
    """A link of a peer that obeys by writing down what it hears."""
    heard = [] if heard is None else heard
    configuration = LiveConfiguration(folder / "kept.json", "scheduler", heard.append)
    configuration.held = Held(9, 9)  # of another cluster, so that whatever comes is news
    return ManagerLink(where, who, tls, configuration, lambda call: call())


def facts(**changes: Any) -> ServiceFacts:
    usual: dict[str, Any] = {
        "host_id": A, "kind": manager_pb2.PEER, "hostname": "h", "address": "127.0.0.1:7000",
        "idc": "", "location": "", "version": "test",
    }  # fmt: skip
    return ServiceFacts(**{**usual, **changes})


def test_a_link_is_kept_up_and_says_that_it_lives(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("manager 127.0.0.1:.*(UNAVAILABLE|reached)")
    options = options_for(tmp_path, pace=QUICK)

    with running_manager(options) as manager:
        admin = manager.administrator()
        again = replace(options, services=("127.0.0.1", manager.ports.services))
        link = linked([f"127.0.0.1:{manager.ports.services}"], facts(), None, tmp_path)
        link.__enter__()
        until(lambda: manager.ask("GET", f"/hosts/{A}", admin).status_code == 200)
        time.sleep(4 * QUICK.alive_every_s)  # it would be inactive by now, were it silent
        assert host(manager, admin)["active"]
    with running_manager(again) as manager:
        until(lambda: host(manager, admin)["active"])
        link.__exit__(None, None, None)
        until(lambda: not host(manager, admin)["active"])


def test_what_is_heard_while_a_link_ends_is_done_no_more(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("a mistake at what the manager said")
    calls: list[Callable[[], object]] = []
    heard: list[str] = []

    def hear(told: Any) -> None:
        heard.append(type(told).__name__)
        raise RuntimeError("it would end the program")

    with running_manager(options_for(tmp_path)) as manager:
        configuration = LiveConfiguration(tmp_path / "kept.json", "scheduler", lambda _: None)
        where = [f"127.0.0.1:{manager.ports.services}"]
        hears = {"schedulers": hear, "orders": hear}
        with ManagerLink(where, facts(), None, configuration, calls.append, hear=hears):
            until(lambda: len(calls) == 4)  # Welcome, Configuration, and these
            calls[2]()
            assert heard == ["Schedulers"]
        for call in calls:
            call()
    assert heard == ["Schedulers"]


@pytest.mark.parametrize(
    ("address", "name", "comes_in"),
    [("127.0.0.1:7000", "node", True), ("10.9.9.9:7000", "node", False), ("127.0.0.1:7000", B, False)],
)
def test_certificates_are_held_to_host_and_address(
    tmp_path: Path, expected_logs: ExpectedLogs, address: str, name: str, comes_in: bool
) -> None:
    expected_logs.allow("manager 127.0.0.1:")
    authority = Authority(tmp_path)
    for file in ("manager", name):
        key, pem = authority.issue(file)
        (tmp_path / f"{file}.key").write_bytes(key)
        (tmp_path / f"{file}.pem").write_bytes(pem)
    tls = Tls(
        certificate=tmp_path / "manager.pem", key=tmp_path / "manager.key", authority=tmp_path / "ca.pem"
    )
    ours = LinkTls(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", tmp_path / "ca.pem")
    heard: list[LiveConfig] = []

    with running_manager(options_for(tmp_path, tls=tls)) as manager:
        where = [f"127.0.0.1:{manager.ports.services}"]
        with linked(where, facts(address=address), ours, tmp_path, heard):
            if comes_in:
                until(lambda: bool(heard))
        with channel_to(manager.ports.services) as channel:
            stream = ServiceStream(channel)
            with pytest.raises(grpc.RpcError):  # plain
                stream.hello()
    assert bool(heard) == comes_in


def test_real_services_come_and_go(manager: Manager, tmp_path: Path) -> None:
    """``cafs scheduler``, ``cafs peer --seed`` and ``cafs peer``, as their configuration names a manager."""
    admin = manager.administrator()
    where = f"--set=managers=127.0.0.1:{manager.ports.services}"
    commands = {
        "scheduler": cafs_command("scheduler", "--listen", "127.0.0.1:0", where, "--set=idc=fra1"),
        "seed": cafs_command("peer", "--seed", "--listen", "127.0.0.1:0", where),
        "peer": cafs_command("peer", "--listen", "127.0.0.1:0", where),
    }
    processes = []
    try:
        for kind, command in commands.items():
            folders = [f"--set=cache_dir={tmp_path}/{kind}", f"--set=run_dir={tmp_path}/{kind}-run"]
            processes.append(subprocess.Popen([*command, *folders], stderr=subprocess.DEVNULL))

        def here(active: bool) -> list[str]:
            found = manager.call("GET", f"/hosts?active={active}", admin)["items"]
            return sorted(each["kind"] for each in found)

        until(lambda: here(True) == ["peer", "scheduler", "seed"])
        for process in processes:
            process.terminate()
        until(lambda: here(False) == ["peer", "scheduler", "seed"])
        assert [process.wait(PATIENCE_S) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait(PATIENCE_S)
