"""A swarm in which hosts speak TLS with certificates of `cafs ca`, and hosts that do not belong to it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from cafs.core.chunk_ref import ChunkRef
from cafs.core.settings import Settings
from cafs.core.swarm.chunk_request import CHUNKS_PATH, HAVE_HEADER, LEAST_URGENT, ChunkWish, cut_answer
from cafs.oci.registry.repository import RegistryRepository
from tests.support.faults import FaultyRegistry
from tests.support.fetching import MemoryLayer
from tests.support.http import ask
from tests.support.nginx import Served
from tests.support.patience import PATIENCE_S
from tests.support.peers import Peer, Process, Swarm, wait_for
from tests.support.ports import chosen_port
from tests.support.program import run_cafs

BODY = os.urandom((6 << 20) + 12345)
ELSEWHERE = "10.99.99.99"


@dataclass(frozen=True)
class Certificates:
    """Two authorities, and what they issued: to hosts at 127.0.0.1, but for ``elsewhere``."""

    folder: Path

    def of(self, name: str, authority: str = "ca") -> tuple[Path, Path, Path]:
        """Certificate, key, and the authority that others are held to."""
        folder = self.folder / authority
        return folder / f"{name}.pem", folder / f"{name}.key", self.folder / "ca" / "ca.pem"

    def flags(self, name: str, authority: str = "ca") -> list[str]:
        """For a peer."""
        settings = zip(("certificate", "key", "ca"), self.of(name, authority), strict=True)
        return [f"--set=peer_{setting}={path}" for setting, path in settings]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    with ThreadPoolExecutor(4) as several:
        list(several.map(lambda name: run_cafs("ca", "init", folder / name), ("ca", "other")))
        issued = [("ca", name, "127.0.0.1") for name in ("scheduler", "seed", "p1", "p2")]
        issued += [("ca", "elsewhere", ELSEWHERE), ("other", "stranger", "127.0.0.1")]
        list(several.map(lambda i: run_cafs("ca", "issue", folder / i[0], i[1], "--address", i[2]), issued))
    return Certificates(folder)


def secure_scheduler(hosts: Swarm, certificates: Certificates) -> Process:
    flags = zip(("cert", "key", "ca"), certificates.of("scheduler"), strict=True)
    return hosts.scheduler(0, *(f"--tls-{name}={path}" for name, path in flags))


def gets(peer: Peer, url: str) -> None:
    download = peer.getting(url, peer.run_dir / "out")
    _, err = download.communicate(timeout=PATIENCE_S)
    assert download.returncode == 0, err.decode() + peer.log.read_text()
    assert (peer.run_dir / "out").read_bytes() == BODY


def test_hosts_of_one_authority_share_and_others_get_nothing(
    hosts: Swarm, origin: Served, certificates: Certificates
) -> None:
    scheduler = secure_scheduler(hosts, certificates)
    strangers = {
        "none": hosts.peer("none", meets=False),
        "stranger": hosts.peer("stranger", *certificates.flags("stranger", "other"), meets=False),
        "elsewhere": hosts.peer("elsewhere", *certificates.flags("elsewhere"), meets=False),
    }
    seed = hosts.peer("seed", *certificates.flags("seed"), seed=True)
    peers = [hosts.peer(name, *certificates.flags(name)) for name in ("p1", "p2")]
    for peer in peers:
        gets(peer, f"{origin.url}/f.bin")
        figures = peer.status()["downloads"]
        assert (figures["peer_bytes"], figures["source_bytes"]) == (len(BODY), 0)
    shared = origin.sent_bytes("/f.bin")
    assert shared <= 1.05 * len(BODY)
    assert run_cafs("task", "explain", peers[0].tasks()[0]["id"], *peers[0].flags, "--json").json

    with ThreadPoolExecutor() as several:
        list(several.map(lambda peer: gets(peer, f"{origin.url}/f.bin"), strangers.values()))
    assert origin.sent_bytes("/f.bin") == shared + len(strangers) * len(BODY)
    assert all(peer.status()["downloads"]["peer_bytes"] == 0 for peer in strangers.values())

    at = f"WARNING: scheduler {hosts.schedulers[0]}"
    says(strangers["none"], f"{at} cannot be reached: it speaks TLS, and this peer has no peer_certificate")
    says(strangers["stranger"], f"{at} cannot be reached: it does not take this host's certificate")
    says(strangers["elsewhere"], f"{at}: UNAUTHENTICATED the certificate is not good for 127.0.0.1")
    refused = "WARNING: a host was refused, as TLS with it failed"
    says(scheduler, f"{refused}: certificate verify failed: unable to get local issuer certificate")
    assert "ssl_transport_security" not in scheduler.log.read_text()
    says(scheduler, "was rejected: the certificate is not good for 127.0.0.1")
    for host in (seed, *peers):
        assert "WARNING" not in host.log.read_text()


def test_an_upload_server_gives_strangers_nothing(
    hosts: Swarm, origin: Served, certificates: Certificates
) -> None:
    port = chosen_port()
    seed = hosts.peer("seed", *certificates.flags("seed"), seed=True, listen=f"127.0.0.1:{port}")
    gets(seed, f"{origin.url}/f.bin")
    path = f"/v1/tasks/{seed.tasks()[0]['id']}/pieces/0"
    assert ask_in_tls(port, certificates.of("p1"), path).endswith(BODY[: 1 << 20])
    for files, why in (
        (None, "peer did not return a certificate"),
        (certificates.of("stranger", "other"), "unable to get local issuer certificate"),
        (certificates.of("elsewhere"), "the certificate is not good for 127.0.0.1"),
    ):
        said = ask_in_tls(port, files, path)
        assert not said or said.startswith(b"HTTP/1.1 403 ")
        assert len(said) < 1000
        says(seed, f"WARNING: 127.0.0.1 was refused: {why}")


def test_chunks_of_images_go_between_hosts_of_one_authority_only(
    hosts: Swarm, faulty_registry: FaultyRegistry, certificates: Certificates, short_tmp_path: Path
) -> None:
    """What mounts ask for: a host of another authority has to read all from the registry."""
    layer = MemoryLayer([96 << 10] * 48)
    name = f"{faulty_registry.host}/tls/chunks"
    trio.run(push_chunks, layer, name, short_tmp_path)
    settings, port = f"--set=insecure_registries={faulty_registry.host}", chosen_port()
    secure_scheduler(hosts, certificates)
    first = hosts.peer("p1", *certificates.flags("p1"), settings, listen=f"127.0.0.1:{port}")
    second = hosts.peer("p2", *certificates.flags("p2"), settings)
    stranger = hosts.peer("stranger", *certificates.flags("stranger", "other"), settings, meets=False)
    refs = layer.table.refs

    assert bring(first, layer, name, refs) == layer.frames
    came = [bring(second, layer, name, [ref]) for ref in refs if not from_hosts(second)]
    assert came == [[frame] for frame in layer.frames[: len(came)]]
    before = faulty_registry.body_bytes("/tls/chunks/blobs/")
    assert bring(second, layer, name, refs) == layer.frames
    assert from_hosts(second) == len(refs) - len(came) + 1
    assert faulty_registry.body_bytes("/tls/chunks/blobs/") == before
    assert bring(stranger, layer, name, refs) == layer.frames
    assert from_hosts(stranger) == 0
    wait_for(
        lambda: first.status()["chunks"]["served"] == from_hosts(second), "what was served to be counted"
    )

    body = wish_for(layer, name, refs[:1]).encode()
    assert ask_in_tls(port, certificates.of("p2"), CHUNKS_PATH, body).endswith(layer.frames[0])
    for files in (None, certificates.of("stranger", "other"), certificates.of("elsewhere")):
        said = ask_in_tls(port, files, CHUNKS_PATH, body)
        assert not said or said.startswith(b"HTTP/1.1 403 ")


async def push_chunks(layer: MemoryLayer, name: str, folder: Path) -> None:
    host, _, repository = name.partition("/")
    settings = Settings(cache_dir=folder, run_dir=folder, insecure_registries=(host,))
    registry = RegistryRepository(host, repository, settings)
    await registry.push_blob(layer.blob, layer.blobs[0])
    await registry.aclose()


def wish_for(layer: MemoryLayer, name: str, refs: Sequence[ChunkRef]) -> ChunkWish:
    """Of those that nobody waits for: they are the most patient with a busy machine."""
    return ChunkWish(layer.blobs[0], name, tuple(refs), True, LEAST_URGENT)


def bring(peer: Peer, layer: MemoryLayer, name: str, refs: Sequence[ChunkRef]) -> list[bytes | None]:
    """As a mount server has its peer bring chunks."""
    answer = trio.run(ask, peer.socket, "POST", CHUNKS_PATH, wish_for(layer, name, refs).encode())
    frames = cut_answer(answer.headers[HAVE_HEADER], answer.body, refs)
    return [None if frame is None else bytes(frame) for frame in frames]


def from_hosts(peer: Peer) -> int:
    """Chunks that other hosts gave it."""
    return int(peer.status()["chunks"]["from_peers"])


def says(process: Process, line: str) -> None:
    wait_for(lambda: line in process.log.read_text(), f"{line}: {process.log.read_text()}")


def ask_in_tls(port: int, files: tuple[Path, Path, Path] | None, path: str, body: bytes = b"") -> bytes:
    """What the server answers to a GET, or a POST of ``body``; it closes the connection behind it."""
    line = f"{'POST' if body else 'GET'} {path} HTTP/1.1"
    head = f"{line}\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if files:
        context.load_cert_chain(files[0], files[1])
    said = b""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
            context.wrap_socket(plain) as stream,
        ):
            stream.sendall(head.encode() + body)
            while more := stream.recv(1 << 16):
                said += more
    except (ssl.SSLError, ConnectionError):
        pass  # refused before it could ask, or while
    return said
