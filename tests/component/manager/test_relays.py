"""Hosts that reach the manager by way of schedulers, over real gRPC."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cafs.core.learning import MAX_BYTES
from cafs.core.live.document import LiveConfig
from cafs.core.statistics.ledger import Ledger
from cafs.daemon.grpc_client import LinkTls, open_channel
from cafs.daemon.grpc_server import Tls
from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.manager_link import ManagerLink
from cafs.daemon.reporting import Reporting
from cafs.proto import manager_pb2
from cafs.proto.services import method_of
from tests.component.manager.test_jobs import make, ordered, say, state
from tests.component.manager.test_services import facts, host
from tests.component.manager.test_statistics import AT_ONCE, counts, report, told, totals
from tests.component.test_scheduler import Authority
from tests.support.logs import ExpectedLogs
from tests.support.managed_peers import Peer, peers
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.patience import PATIENCE_S
from tests.support.relaying import RelayStream, SchedulerProcess, scheduler_process

A, B, C = "a" * 32, "b" * 32, "c" * 32
S, S_ADDRESS = "5" * 32, "127.0.0.1:7100"
OK, INVALID, EXISTS = (
    code.value[0]
    for code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS)
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """One that writes down reports soon."""
    with running_manager(options_for(tmp_path, pace=AT_ONCE)) as running:
        yield running


@pytest.fixture
def scheduler(manager: Manager, tmp_path: Path) -> Iterator[SchedulerProcess]:
    """One that passes hosts on to it."""
    with scheduler_process(tmp_path / "s", managers(manager)) as running:
        yield running


def managers(manager: Manager) -> str:
    return f"--set=managers=127.0.0.1:{manager.ports.services}"


def linked(
    where: int,
    folder: Path,
    schedulers: Sequence[str],
    *,
    tls: LinkTls | None = None,
    counted: Counter[str] | None = None,
    heard: list[LiveConfig] | None = None,
) -> ManagerLink:
    """A peer's, that soon looks for a better way."""
    lock, heard = threading.Lock(), [] if heard is None else heard

    def hand_over(call: Any) -> None:
        with lock:  # two streams have threads of their own
            call()

    ledger = Ledger("0123456789abcdef" * 2, lambda: counted or Counter())
    return ManagerLink(
        [f"127.0.0.1:{where}"],
        facts(),
        tls,
        LiveConfiguration(folder / "kept.json", "scheduler", heard.append),
        hand_over,
        schedulers=lambda: schedulers,
        reporting=Reporting(ledger, folder / "figures.json"),
        look_s=(0.1, 0.2),
    )


def by(link: ManagerLink) -> str:
    """The scheduler; empty: none."""
    return link.way.address if link.way is not None and link.way.by_scheduler else ""


def directly(link: ManagerLink) -> bool:
    return link.way is not None and not link.way.by_scheduler


def test_a_host_by_way_of_a_scheduler_is_as_any_other(manager: Manager, scheduler: SchedulerProcess) -> None:
    admin = manager.administrator()
    with channel_to(scheduler.port) as channel:
        stream = ServiceStream(channel)
        assert stream.hello(hostname="gpu-7", idc="fra1").cluster_name == "default"
        known = host(manager, admin)
        assert [known[name] for name in ("active", "kind", "hostname", "address", "idc")] == [
            True, "peer", "gpu-7", "10.1.2.3:7000", "fra1",
        ]  # fmt: skip
        until(lambda: scheduler.hosts == 1)
        body = {"document": {"peer": {"concurrent_uploads": 3}}, "note": ""}
        manager.call("PUT", "/clusters/1/configuration", admin, json=body, headers={"If-Match": "*"})
        assert b"concurrent_uploads" in stream.configured(1).document
        stream.say(running=manager_pb2.Running(cluster_id=1, version=1))
        until(lambda: host(manager, admin)["running"] == 1)
        told(stream, report(all=counts(peer_bytes=5)))
        told(stream, report(all=counts(peer_bytes=5)))  # said again: counted once
        assert totals(manager, admin)["peer_bytes"] == 5
        number = make(manager, admin)["id"]
        [order] = ordered(stream, number)
        say(stream, order, manager_pb2.DONE, 10, 10)
        ordered(stream)
        until(lambda: state(manager, admin, number) == "succeeded")
        stream.say(profile_wish=manager_pb2.ProfileWish(image=bytes(32)))
        assert stream.hear("learned_profile").image == bytes(32)
        stream.say(leaving=manager_pb2.Leaving())
        assert stream.ended()[0] is grpc.StatusCode.OK
        until(lambda: not host(manager, admin)["active"])
        until(lambda: scheduler.hosts == 0)


def test_a_bad_host_gets_a_clear_word_and_disturbs_no_other(
    manager: Manager, scheduler: SchedulerProcess
) -> None:
    admin = manager.administrator()
    with channel_to(scheduler.port) as channel:
        good, twice, large, broken, none, mute = (ServiceStream(channel, 32 * letter) for letter in "abcdef")
        for stream in (good, twice, large, broken):
            stream.hello()
        twice.send_hello()
        assert twice.ended() == (grpc.StatusCode.INVALID_ARGUMENT, "a second Hello on one stream")
        large.say(start_report=manager_pb2.StartReport(profile=bytes(MAX_BYTES + (64 << 10))))
        assert large.ended()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        broken.say(profile_wish=manager_pb2.ProfileWish(image=b"short"))
        assert broken.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT
        none.send_hello(address="0.0.0.0:1")
        assert none.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT
        mute.send_hello(protocol_version=2)
        assert mute.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT
        until(lambda: [host(manager, admin, 32 * letter)["active"] for letter in "abcd"] == [1, 0, 0, 0])
        told(good, report(all=counts(peer_bytes=1)))


def test_reports_are_counted_once_whichever_way_they_come(
    manager: Manager, scheduler: SchedulerProcess, tmp_path: Path
) -> None:
    admin, counted = manager.administrator(), Counter(peer_bytes=5)
    with linked(manager.ports.services, tmp_path, [scheduler.address], counted=counted) as link:
        until(lambda: by(link) == scheduler.address)
        until(lambda: totals(manager, admin)["peer_bytes"] == 5)
        counted["peer_bytes"] += 2
        scheduler.kill()
        until(lambda: directly(link))
        until(lambda: totals(manager, admin)["peer_bytes"] == 7)
        counted["peer_bytes"] += 4
        scheduler.start()
        until(lambda: by(link) == scheduler.address)
        until(lambda: totals(manager, admin)["peer_bytes"] == 11)
    until(lambda: not host(manager, admin)["active"])
    assert totals(manager, admin)["peer_bytes"] == 11


def test_a_host_moves_to_a_scheduler_without_being_away(
    manager: Manager, scheduler: SchedulerProcess, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    admin = manager.administrator()
    known: list[str] = []
    with linked(manager.ports.services, tmp_path, known) as link:
        until(lambda: directly(link) and manager.ask("GET", f"/hosts/{A}", admin).status_code == 200)
        known.append(scheduler.address)

        def has_moved() -> bool:
            assert host(manager, admin)["active"]
            return by(link) == scheduler.address

        until(has_moved)
        assert host(manager, admin)["active"]
        until(lambda: scheduler.hosts == 1)


def test_hosts_come_back_by_their_scheduler_when_the_manager_does(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("manager 127.0.0.1:")
    options = options_for(tmp_path, pace=AT_ONCE)
    with ExitStack() as stack:
        with running_manager(options) as manager:
            admin = manager.administrator()
            scheduler = stack.enter_context(scheduler_process(tmp_path / "s", managers(manager)))
            link = stack.enter_context(linked(manager.ports.services, tmp_path, [scheduler.address]))
            until(lambda: by(link) == scheduler.address)
        until(lambda: not link.is_up)
        with running_manager(replace(options, services=("127.0.0.1", manager.ports.services))) as again:
            until(lambda: host(again, admin)["active"])
            until(lambda: by(link) == scheduler.address)
            scheduler.stop()
            until(lambda: directly(link))


def test_certificates_are_held_to_hosts_at_the_scheduler(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    with (
        running_manager(options_for(tmp_path, tls=files.tls("manager"))) as manager,
        scheduler_process(tmp_path / "s", *files.options("scheduler"), managers(manager)) as scheduler,
        linked(manager.ports.services, tmp_path, [scheduler.address], tls=files.link("node")) as link,
    ):
        until(lambda: by(link) == scheduler.address)
        with open_channel(scheduler.address, files.link("node")) as channel:
            other = ServiceStream(channel, B)
            other.send_hello(address="10.9.9.9:7000")
            code, why = other.ended()
            assert (code, "10.9.9.9" in why) == (grpc.StatusCode.UNAUTHENTICATED, True)
        with open_channel(scheduler.address, files.link(C)) as channel:
            other = ServiceStream(channel, B)
            other.send_hello(address="127.0.0.1:7000")
            assert other.ended() == (grpc.StatusCode.UNAUTHENTICATED, "the certificate is another host's")
        with open_channel(f"127.0.0.1:{manager.ports.services}", files.link("node")) as channel:
            away = RelayStream(channel, S, "10.9.9.9:7100")
            assert away.ended()[0] is grpc.StatusCode.UNAUTHENTICATED
            peer = RelayStream(channel, A, "127.0.0.1:7000")  # it is here, and no scheduler
            assert peer.ended()[0] is grpc.StatusCode.PERMISSION_DENIED


class Certificates:
    """Of one authority, each good for this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = Authority(folder)
        for name in ("manager", "scheduler", "node", C):
            key, pem = authority.issue(name)
            (folder / f"{name}.key").write_bytes(key)
            (folder / f"{name}.pem").write_bytes(pem)

    def tls(self, name: str) -> Tls:
        certificate, key, authority = self._files(name)
        return Tls(certificate=certificate, key=key, authority=authority)

    def link(self, name: str) -> LinkTls:
        return LinkTls(*self._files(name))

    def options(self, name: str) -> list[str]:
        names = ("--tls-cert", "--tls-key", "--tls-ca")
        return [f"{option}={file}" for option, file in zip(names, self._files(name), strict=True)]

    def _files(self, name: str) -> tuple[Path, Path, Path]:
        return self._folder / f"{name}.pem", self._folder / f"{name}.key", self._folder / "ca.pem"


@contextmanager
def relaying(manager: Manager, host_id: str = S) -> Iterator[tuple[grpc.Channel, RelayStream]]:
    """A relay that the manager takes, of a scheduler that the test plays."""
    with channel_to(manager.ports.services) as channel:
        itself = ServiceStream(channel, host_id)  # one that nobody refers to is broken off
        itself.hello(kind=manager_pb2.SCHEDULER, address=S_ADDRESS)
        relay = RelayStream(channel, host_id, S_ADDRESS)
        relay.taken()
        yield channel, relay


def test_only_schedulers_may_relay(manager: Manager) -> None:
    with channel_to(manager.ports.services) as channel:
        ServiceStream(channel, A).hello()
        for host_id, address in ((A, "10.1.2.3:7000"), (B, S_ADDRESS)):
            code, why = RelayStream(channel, host_id, address).ended()
            assert (code, "scheduler" in why) == (grpc.StatusCode.PERMISSION_DENIED, True)
        assert RelayStream(channel, S, "nowhere").ended()[0] is grpc.StatusCode.INVALID_ARGUMENT
    with relaying(manager) as (channel, _):
        assert RelayStream(channel, S, "127.0.0.1:1").ended()[0] is grpc.StatusCode.PERMISSION_DENIED


def test_nonsense_on_a_relay_ends_the_stream_that_it_is_of(manager: Manager) -> None:
    admin = manager.administrator()
    with relaying(manager) as (_, relay):
        relay.hello(1, A)
        relay.hear(1, "placed")
        relay.say(2, alive=manager_pb2.Alive())
        assert relay.host_ended(2) == (INVALID, "the first message must be Hello")
        relay.say(3, b"\xff\xff")
        assert relay.host_ended(3)[0] == INVALID
        relay.hello(4, B, kind=manager_pb2.SCHEDULER)
        assert relay.host_ended(4)[0] == INVALID
        relay.hello(5, B)
        relay.hear(5, "placed")
        relay.say(5, b"\xff\xff")
        assert relay.host_ended(5)[0] == INVALID
        relay.say(5, alive=manager_pb2.Alive())  # it was on its way
        relay.hello(2, C)  # such a number was there: nobody hears it
        relay.send(manager_pb2.Word(stream=9, ended=manager_pb2.Ended()), manager_pb2.Word(stream=1))
        hello = manager_pb2.FromService(hello=manager_pb2.Hello(
            protocol_version=1, host_id=C, kind=manager_pb2.SEED, address="10.1.2.4:7000"))  # fmt: skip
        alive = manager_pb2.FromService(alive=manager_pb2.Alive())
        relay.send(
            *(manager_pb2.Word(stream=10, message=said.SerializeToString()) for said in (hello, alive))
        )
        assert relay.host_ended(10) == (INVALID, "nothing but Hello may be said before Welcome")
        relay.say(1, report=report(all=counts(peer_bytes=5)))
        assert relay.hear(1, "counted").number == 1
        assert host(manager, admin)["active"]
        relay.send(manager_pb2.Word(stream=1, ended=manager_pb2.Ended()))
        until(lambda: not host(manager, admin)["active"])


def test_the_newest_stream_of_a_host_is_the_one(manager: Manager) -> None:
    with relaying(manager) as (channel, relay):
        direct = ServiceStream(channel)
        direct.hello()
        relay.hello(1, A)
        relay.hear(1, "placed")
        assert direct.ended()[0] is grpc.StatusCode.ALREADY_EXISTS
        relay.hello(2, A)
        relay.hear(2, "placed")
        assert relay.host_ended(1)[0] == EXISTS
        newest = ServiceStream(channel)
        newest.hello()
        assert relay.host_ended(2)[0] == EXISTS


def test_a_newer_relay_of_a_scheduler_takes_over(manager: Manager) -> None:
    admin = manager.administrator()
    with relaying(manager) as (channel, relay):
        relay.hello(1, A)
        relay.hear(1, "placed")
        newer = RelayStream(channel, S, S_ADDRESS)
        newer.taken()
        assert relay.ended()[0] is grpc.StatusCode.ALREADY_EXISTS
        until(lambda: not host(manager, admin)["active"])
        newer.hello(1, A)
        newer.hear(1, "placed")
        assert host(manager, admin)["active"]
        newer.cancel()
        until(lambda: not host(manager, admin)["active"])


def test_a_scheduler_without_a_manager_is_passed_by(manager: Manager, tmp_path: Path) -> None:
    with (
        scheduler_process(tmp_path / "s") as scheduler,
        linked(manager.ports.services, tmp_path, [scheduler.address]) as link,
    ):
        until(lambda: directly(link))
        with channel_to(scheduler.port) as channel:
            stream = ServiceStream(channel)
            stream.send_hello()
            assert stream.ended()[0] is grpc.StatusCode.UNIMPLEMENTED


@contextmanager
def older_manager() -> Iterator[int]:
    """One that knows nothing of relays, on its port; it welcomes whoever comes."""
    attach = method_of(manager_pb2.DESCRIPTOR, "Manager", "Attach")

    def serve(requests: Iterator[manager_pb2.FromService], _: Any) -> Iterator[manager_pb2.ToService]:
        next(requests)
        yield manager_pb2.ToService(welcome=manager_pb2.Welcome(alive_every_ms=1000))
        for _ in requests:
            pass

    handler = grpc.stream_stream_rpc_method_handler(serve, attach.parse_request, attach.serialize_response)
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("cafs.manager.v1.Manager", {"Attach": handler})]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait(PATIENCE_S)


def test_an_older_manager_is_reached_directly(tmp_path: Path) -> None:
    with (
        older_manager() as port,
        scheduler_process(tmp_path / "s", f"--set=managers=127.0.0.1:{port}") as scheduler,
    ):
        with channel_to(scheduler.port) as channel:
            stream = ServiceStream(channel)
            stream.send_hello()
            assert stream.ended() == (
                grpc.StatusCode.UNAVAILABLE, "this scheduler has no way to the manager",
            )  # fmt: skip
        with linked(port, tmp_path, [scheduler.address]) as link:
            until(lambda: directly(link))


def test_a_real_peer_comes_by_way_of_its_scheduler(
    manager: Manager, scheduler: SchedulerProcess, short_tmp_path: Path
) -> None:
    admin = manager.administrator()
    peer = Peer(short_tmp_path / "p", managers(manager), f"--set=schedulers={scheduler.address}")
    with peers(peer):
        until(lambda: scheduler.hosts == 1)
        body = {"document": {"peer": {"concurrent_uploads": 3}}, "note": ""}
        manager.call("PUT", "/clusters/1/configuration", admin, json=body, headers={"If-Match": "*"})
        until(lambda: peer.limit("concurrent_uploads") == 3)
        scheduler.stop()
        until(lambda: manager.call("GET", "/hosts?active=true&kind=peer", admin)["items"] != [])
