"""``cafs scheduler`` over real gRPC: streams, questions, health, figures, certificates, and its end."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import signal
import subprocess
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from cafs.core.scheduling.limits import Limits
from cafs.daemon.grpc_server import Tls
from cafs.proto import health_pb2, p2p_pb2
from cafs.scheduler.program import Options, served
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port
from tests.support.program import cafs_command
from tests.support.scheduler_client import HostStream, ask, open_channel

MIB = 1 << 20
A, B, SEED = "a" * 32, "b" * 32, "5" * 32
TASK = "7" * 64
DIGESTS = [bytes([n + 1]) * 32 for n in range(3)]


def spec(**fields: Any) -> p2p_pb2.TaskSpec:
    usual: dict[str, Any] = {
        "task_id": TASK,
        "url": "https://origin/file?v=1",
        "priority": 3,
        "seedable": True,
    }
    return p2p_pb2.TaskSpec(**{**usual, **fields})


def run(work: Callable[[grpc.aio.Channel], Awaitable[None]], **options: Any) -> None:
    """With a scheduler and a channel to it."""

    async def main() -> None:
        fields: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "limits": Limits(), **options}
        async with served(Options(**fields)) as port, open_channel(port) as channel:
            await work(channel)

    asyncio.run(main())


async def _seeded(channel: grpc.aio.Channel) -> tuple[HostStream, HostStream]:
    """A seed that has fetched the task, and a peer that waits for it."""
    seed, peer = HostStream(channel, SEED), HostStream(channel, A)
    await seed.hello(type=p2p_pb2.SEED, address="127.0.0.1:7001")
    await seed.hear("welcome")
    await peer.hello()
    await peer.hear("welcome")
    await peer.say(register=p2p_pb2.PeerRegister(peer_id="1" * 32, task=spec()))
    assert (await peer.hear("members")).whole
    told = await seed.hear("seed")
    await seed.say(register=p2p_pb2.PeerRegister(peer_id="2" * 32, task=told.task))
    await seed.hear("source", lambda source: source.peer_id == "2" * 32)
    await seed.say(meta=p2p_pb2.TaskMeta(task_id=TASK, content_bytes=3 * MIB - 5, piece_bytes=MIB))
    pieces = [p2p_pb2.FinishedPiece(number=n, digest=digest, cost_ms=9) for n, digest in enumerate(DIGESTS)]
    await seed.say(pieces=p2p_pb2.PiecesFinished(peer_id="2" * 32, pieces=pieces))
    return seed, peer


def test_a_seed_fetches_and_the_peer_hears_of_it() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        _, peer = await _seeded(channel)
        members = await peer.hear("members", lambda told: any(m.at_source for m in told.members))
        (member,) = members.members
        assert (member.host_id, member.address, member.type) == (SEED, "127.0.0.1:7001", p2p_pb2.SEED)
        assert (await peer.hear("meta")).content_bytes == 3 * MIB - 5
        digests = await peer.hear("digests")
        assert (digests.first, digests.digests) == (0, b"".join(DIGESTS))
        await peer.say(finished=p2p_pb2.PeerFinished(peer_id="1" * 32, outcome=p2p_pb2.SUCCEEDED))
        await peer.say(left=p2p_pb2.PeerLeft(peer_id="1" * 32))
        tasks = await ask(channel, "ListTasks", p2p_pb2.ListTasksRequest())
        assert [(t.spec.task_id, t.pieces, t.digests, t.source_pieces) for t in tasks.tasks] == [
            (TASK, 3, 3, 3)
        ]

    run(work)


def test_explain_says_why_with_scores() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        _, peer = await _seeded(channel)
        await peer.hear("digests")  # so what the seed said of its pieces was heard
        other = HostStream(channel, B)
        await other.hello(idc="x")
        await other.say(register=p2p_pb2.PeerRegister(peer_id="3" * 32, task=spec()))
        await other.hear("members")
        found = await ask(channel, "Explain", p2p_pb2.ExplainRequest(task_id=TASK))
        assert {"members", "seed", "source"} <= {decision.what for decision in found.decisions}
        chosen = await ask(channel, "Explain", p2p_pb2.ExplainRequest(task_id=TASK, peer_id="3" * 32))
        (candidate,) = [c for d in chosen.decisions for c in d.candidates if c.chosen]
        assert candidate.host_id == A
        assert {part.name for part in candidate.parts} >= {"pieces", "idle", "room", "speed", "idc"}
        assert 0 < candidate.score <= 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "Explain", p2p_pb2.ExplainRequest(task_id="0" * 64))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    run(work)


def test_after_a_restart_hosts_tell_what_they_hold() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        holder, peer = HostStream(channel, B), HostStream(channel, A)
        held = p2p_pb2.HeldTask(
            task_id=TASK,
            content_bytes=3 * MIB,
            piece_bytes=MIB,
            have=b"\x07",
            digests=b"".join(DIGESTS),
            spec=spec(task_id=""),
        )
        await holder.hello(held=[held], address="127.0.0.1:7002")
        await holder.hear("welcome")
        await peer.hello()
        await peer.say(register=p2p_pb2.PeerRegister(peer_id="1" * 32, task=spec()))
        members = await peer.hear("members")
        assert [(m.host_id, m.complete) for m in members.members] == [(B, True)]
        assert (await peer.hear("digests")).digests == b"".join(DIGESTS)

    run(work)


def test_no_secret_is_kept_or_told() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        peer = HostStream(channel, A)
        await peer.hello()
        for number, url in enumerate(
            (
                "https://user:hunter2@origin/a",
                "https://origin/a?X-Amz-Signature=hunter2",
                "https://origin/a#hunter2",
            )
        ):
            task = spec(url=url, task_id=f"{number:064x}")
            await peer.say(register=p2p_pb2.PeerRegister(peer_id=f"{number:032x}", task=task))
            await peer.hear("source")  # nobody else may fetch it
        failed = p2p_pb2.PeerFinished(
            peer_id=f"{0:032x}", outcome=p2p_pb2.FAILED, reason="GET https://u:hunter2@o/x?sig=hunter2: 404"
        )
        await peer.say(finished=failed)
        tasks = await ask(channel, "ListTasks", p2p_pb2.ListTasksRequest())
        assert {task.spec.url for task in tasks.tasks} == {"https://origin/a"}
        assert not any(task.spec.seedable for task in tasks.tasks)
        explained = await ask(channel, "Explain", p2p_pb2.ExplainRequest(task_id=f"{0:064x}"))
        assert "hunter2" not in f"{tasks}{explained}"

    run(work)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"host_id": "x"}, "hex"),
        ({"protocol_version": 9}, "version 9"),
        ({"address": "example.org:1"}, "ip:port"),
        ({"address": "0.0.0.0:1"}, "reach"),
        ({"address": "127.0.0.1:0"}, "port"),
        ({"hostname": "a\nb"}, "hostname"),
        ({"held": [p2p_pb2.HeldTask(task_id=TASK, have=b"\1", digests=b"short")]}, "digests"),
    ],
)
def test_a_malformed_hello_is_rejected(fields: dict[str, Any], word: str) -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        host = HostStream(channel, A)
        await host.hello(**fields)
        code, details = await host.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert word in details

    run(work)


def test_nonsense_ends_one_stream_and_no_other() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        good, bad, silent = HostStream(channel, A), HostStream(channel, B), HostStream(channel, SEED)
        await good.hello()
        await good.hear("welcome")
        await bad.hello(address="127.0.0.1:7003")
        await bad.hear("welcome")
        await bad.say(pieces=p2p_pb2.PiecesFinished(peer_id="nonsense"))
        assert (await bad.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        await silent.say(alive=p2p_pb2.HostAlive())
        assert (await silent.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        connect = channel.stream_stream("/cafs.p2p.v1.Scheduler/Connect", None, None)
        no_message = HostStream(channel, B)
        no_message.call = connect(iter([b"\xff"]))
        code, details = await no_message.ended()
        assert (code, "no message" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        await good.say(register=p2p_pb2.PeerRegister(peer_id="1" * 32, task=spec(priority=0)))
        assert (await good.hear("refused")).why == "blocked"

    run(work)


@pytest.mark.parametrize("path", ["cafs.p2p.v1.Scheduler/ListTasks", "grpc.health.v1.Health/Check"])
def test_a_question_that_is_no_message_is_refused_as_that(path: str) -> None:
    """And not told in the log as a mistake of ours."""

    async def work(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await channel.unary_unary(f"/{path}", None, None)(b"\xff", timeout=PATIENCE_S)
        assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        host = HostStream(channel, A)
        await host.hello()
        await host.hear("welcome")

    run(work)


def test_a_newer_stream_of_a_host_takes_over() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        old, new = HostStream(channel, A), HostStream(channel, A)
        await old.hello()
        await old.hear("welcome")
        await new.hello(address="127.0.0.1:7009")
        await new.hear("welcome")
        assert (await old.ended())[0] is grpc.StatusCode.ALREADY_EXISTS
        hosts = await ask(channel, "ListHosts", p2p_pb2.ListHostsRequest())
        assert [(host.address, host.state) for host in hosts.hosts] == [("127.0.0.1:7009", "alive")]

    run(work)


def test_a_host_that_was_taken_for_gone_is_told_to_come_again() -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        silent = HostStream(channel, A)
        await silent.hello()
        await silent.hear("welcome")
        code, why = await silent.ended()
        assert (code, "connect again" in why) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
        again = HostStream(channel, A)
        await again.hello()
        await again.hear("welcome")

    run(work, limits=Limits(alive_every_s=0.1, gone_after_s=0.5))


def test_a_host_for_which_too_much_waits_is_dropped_and_told(expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("reads too slowly")

    async def work(channel: grpc.aio.Channel) -> None:
        holder, slow = HostStream(channel, B), HostStream(channel, A)
        digests = b"".join((n + 1).to_bytes(32, "big") for n in range(1024))
        held = p2p_pb2.HeldTask(
            task_id=TASK, content_bytes=1 << 30, piece_bytes=MIB, have=b"\xff" * 128, digests=digests
        )
        await holder.hello(held=[held], address="127.0.0.1:7002")
        await holder.hear("welcome")
        await slow.hello()
        await slow.hear("welcome")
        await slow.say(register=p2p_pb2.PeerRegister(peer_id="1" * 32, task=spec()))
        code, why = await slow.ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too slowly" in why
        again = HostStream(channel, A)
        await again.hello()
        await again.hear("welcome")
        await holder.say(register=p2p_pb2.PeerRegister(peer_id="2" * 32, task=spec(priority=0)))
        await holder.hear("refused")  # the other stream goes on

    run(work, queue_bytes=20_000)


def test_health_and_figures(free_port: int) -> None:
    async def work(channel: grpc.aio.Channel) -> None:
        for service in ("", "cafs.p2p.v1.Scheduler"):
            answer = await ask(channel, "Check", health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "Check", health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        await _seeded(channel)
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{free_port}/metrics")
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["cafs_scheduler_connected_hosts",] == 2
        assert samples["cafs_scheduler_events_total", "hosthello"] == 2
        assert samples["cafs_scheduler_peers",] == 2

    run(work, metrics=("127.0.0.1", free_port))


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return answer.read().decode()


@pytest.fixture
def free_port() -> int:
    return chosen_port()


class Authority:
    """Certificates of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign("ca", self.key, None, ca=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        (folder / "ca.pem").write_bytes(self.pem)

    def issue(self, name: str, address: str = "127.0.0.1") -> tuple[bytes, bytes]:
        """Key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self._sign(name, key, address).public_bytes(serialization.Encoding.PEM)
        form = serialization.PrivateFormat.PKCS8
        return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), pem

    def _sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, address: str | None, *, ca: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if address is not None:
            names = [x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.mark.parametrize(
    ("name", "issued_for", "address", "code"),
    [
        ("node-1", "127.0.0.1", "127.0.0.1:7000", None),
        (A, "127.0.0.1", "127.0.0.1:7000", None),
        (B, "127.0.0.1", "127.0.0.1:7000", grpc.StatusCode.UNAUTHENTICATED),
        ("node-1", "127.0.0.1", "10.1.2.3:7000", grpc.StatusCode.UNAUTHENTICATED),
        ("node-1", "10.1.2.3", "10.1.2.3:7000", None),
    ],
)
def test_certificates_are_held_to_host_and_address(
    tmp_path: Path, name: str, issued_for: str, address: str, code: grpc.StatusCode | None
) -> None:
    authority = Authority(tmp_path)
    key, pem = authority.issue("scheduler")
    (tmp_path / "s.key").write_bytes(key)
    (tmp_path / "s.pem").write_bytes(pem)
    tls = Tls(certificate=tmp_path / "s.pem", key=tmp_path / "s.key", authority=tmp_path / "ca.pem")
    key, pem = authority.issue(name, issued_for)

    async def main() -> None:
        options = Options(host="127.0.0.1", port=0, limits=Limits(), tls=tls)
        async with served(options) as port:
            trusted = grpc.ssl_channel_credentials(authority.pem, key, pem)
            async with open_channel(port, trusted) as channel:
                host = HostStream(channel, A)
                await host.hello(address=address)
                if code is None:
                    await host.hear("welcome")
                else:
                    assert (await host.ended())[0] is code
            async with open_channel(port, grpc.ssl_channel_credentials(authority.pem)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:  # no certificate at all
                    await ask(channel, "ListHosts", p2p_pb2.ListHostsRequest())
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_the_program_serves_until_sigterm_and_sends_hosts_on() -> None:
    command = cafs_command("scheduler", "--listen", "127.0.0.1:0")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = int(line.rpartition(":")[2])

        async def main() -> None:
            async with open_channel(port) as channel:
                host = HostStream(channel, A)
                await host.hello()
                await host.hear("welcome")
                process.send_signal(signal.SIGTERM)
                code, why = await host.ended()
                assert code is grpc.StatusCode.UNAVAILABLE
                assert "next" in why

        asyncio.run(main())
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--tls-ca", "x.pem"], "--tls-cert"),
        (["--tls-cert", "missing.pem", "--tls-key", "missing.key"], "missing.key"),
    ],
)
def test_wrong_options_are_a_usage_error(arguments: list[str], word: str) -> None:
    done = subprocess.run(
        cafs_command("scheduler", *arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
