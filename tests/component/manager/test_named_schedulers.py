"""Peers and seeds are told which schedulers to ask, and real ones ask them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from cafs.proto import manager_pb2
from tests.component.manager.test_configuration import Peer, peers
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port
from tests.support.postgres import Postgres
from tests.support.program import cafs_command

ONE, TWO = "10.0.0.1:65000", "10.0.0.2:65000"


def named(stream: ServiceStream, *addresses: str) -> None:
    """Wait until these are named, and no others; what is known of them a moment earlier may come before."""
    while tuple(stream.hear("schedulers").addresses) != addresses:
        pass


def scheduler(channel: Any, number: int, address: str, **fields: Any) -> ServiceStream:
    """One that is here."""
    stream = ServiceStream(channel, f"{number:032x}")
    stream.hello(kind=manager_pb2.SCHEDULER, address=address, **fields)
    return stream


def test_peers_and_seeds_hear_of_the_schedulers_of_their_cluster(manager: Manager) -> None:
    admin = manager.administrator()
    body = {"kind": "scheduler", "name": "far", "scopes": {"idcs": ["far"]}}
    manager.call("POST", "/clusters", admin, 201, json=body)
    with channel_to(manager.ports.services) as channel:
        peer, seed, far = (ServiceStream(channel, name * 32) for name in "abc")
        peer.hello()
        named(peer)
        first = scheduler(channel, 1, ONE)
        named(peer, ONE)
        seed.hello(kind=manager_pb2.SEED)
        named(seed, ONE)
        far.hello(idc="far")
        named(far)
        scheduler(channel, 2, TWO)
        named(peer, ONE, TWO)
        named(seed, ONE, TWO)
        scheduler(channel, 3, "10.0.0.3:65000", idc="far")
        named(far, "10.0.0.3:65000")
        first.say(leaving=manager_pb2.Leaving())
        until(lambda: not manager.call("GET", f"/hosts/{1:032x}", admin)["active"])
        late = ServiceStream(channel, "d" * 32)
        late.hello()
        named(late, ONE, TWO)  # it may have lost its manager only
        manager.call("DELETE", f"/hosts/{1:032x}", admin, 204)
        named(peer, TWO)


def test_schedulers_and_proxies_are_told_of_none(manager: Manager) -> None:
    with channel_to(manager.ports.services) as channel:
        first, proxy = scheduler(channel, 1, ONE), ServiceStream(channel, "a" * 32)
        proxy.hello(kind=manager_pb2.PROXY)
        for stream in (first, proxy):
            stream.hear("configuration")
        scheduler(channel, 2, TWO)
        peer = ServiceStream(channel, "b" * 32)
        peer.hello()
        named(peer, ONE, TWO)
        for stream in (first, proxy):
            stream.say(leaving=manager_pb2.Leaving())
            assert [message.WhichOneof("message") for message in stream.call] == []


def test_another_replica_tells_its_peers_too(tmp_path: Path, postgres: Postgres) -> None:
    address = postgres.url(postgres.new_database())
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(running_manager(options_for(tmp_path / str(number), address)))
            for number in range(2)
        ]
        channels = [stack.enter_context(channel_to(each.ports.services)) for each in replicas]
        peer = ServiceStream(channels[0])
        peer.hello()
        named(peer)
        scheduler(channels[1], 1, ONE)
        named(peer, ONE)


@contextmanager
def origin(body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A web server with one file; its address, and the requests for its bytes."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def _reply(self, *, with_body: bool) -> None:
            first, last = 0, len(body) - 1
            wanted = self.headers.get("range", "")
            if wanted:
                begin, _, end = wanted.partition("=")[2].partition("-")
                first, last = int(begin), min(int(end or last), last)
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"one"')
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            if with_body:
                asked.append(wanted)
                self.wfile.write(body[first : last + 1])

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file", asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running_scheduler(folder: Path, managers: str) -> Iterator[str]:
    """``cafs scheduler`` as a process; where it listens."""
    port = chosen_port()
    command = cafs_command(
        "scheduler", "--listen", f"127.0.0.1:{port}", f"--set=cache_dir={folder}", managers
    )
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def asks(peer: Peer, address: str) -> bool:
    """It has a stream to that scheduler, and to no other."""
    return bool(peer.ask("GET", "/v1/status")[1]["schedulers"] == [address])


def get(folder: Path, url: str, digest: str) -> None:
    command = cafs_command("get", url, "-o", f"{folder}/got", f"--set=cache_dir={folder}/c",
                           f"--set=run_dir={folder}/r", "--digest", digest)  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)


def test_peers_that_know_only_the_manager_meet_at_its_scheduler(short_tmp_path: Path) -> None:
    folder, body = short_tmp_path, os.urandom(3 << 20)
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    with ExitStack() as stack:
        url, asked = stack.enter_context(origin(body))
        manager = stack.enter_context(running_manager(options_for(folder / "m")))
        where = f"--set=managers=127.0.0.1:{manager.ports.services}"
        made = [Peer(folder / name, where) for name in ("one", "two")]
        stack.enter_context(peers(*made))
        address = stack.enter_context(running_scheduler(folder / "s", where))
        for peer in made:
            until(partial(asks, peer, address))
        get(folder / "one", url, digest)
        taken = len(asked)
        assert taken
        get(folder / "two", url, digest)
        assert len(asked) == taken  # the second one had it all from the first
        assert json.loads((folder / "two/c/peer/schedulers.json").read_text()) == [address]
        explained = cafs_command(
            "task", "ls", f"--set=cache_dir={folder}/two/c", f"--set=run_dir={folder}/two/r"
        )
        assert subprocess.run(explained, check=True, capture_output=True, timeout=PATIENCE_S).stdout
        made[1].stop()
        stack.enter_context(peers(later := Peer(folder / "two", "--set=managers=127.0.0.1:1")))
        until(partial(asks, later, address))  # as kept
