"""Processes killed at random, and hosts in network namespaces whose links are cut: all files arrive whole.

The choices are drawn from a seed that a failure names; ``CHAOS_SEED`` repeats it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from demo.process import run
from demo.switch import Port, open_switch
from tests.support.nginx import Served, nginx
from tests.support.peers import Peer, Swarm, swarm, wait_for

BODY = os.urandom((8 << 20) + 1234)
DONE_S = 60
QUICK = "--set=scheduler_alive_s=0.5"
"""A host that was silent for 1.5 s is gone."""


@pytest.fixture
def folder(short_tmp_path: Path) -> Path:
    (short_tmp_path / "www").mkdir()
    (short_tmp_path / "www/f.bin").write_bytes(BODY)
    return short_tmp_path


@pytest.fixture
def hosts(folder: Path) -> Iterator[Swarm]:
    with swarm(folder) as made:
        yield made


def at_once(start: Callable[[str], Peer], names: Iterable[str]) -> list[Peer]:
    """Their starts take most of the time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(start, names))


class Downloads:
    """The file on every node; who was disturbed too much tries again."""

    def __init__(self, peers: list[Peer], origin: str) -> None:
        self._url = f"{origin}/f.bin"
        self._peers = peers
        self._running = [self._begin(peer) for peer in peers]

    def _begin(self, peer: Peer) -> subprocess.Popen[bytes]:
        return peer.getting(self._url, peer.run_dir / "f.bin")

    def finish(self) -> None:
        """Wait for all of them; compare every byte."""
        give_up = time.monotonic() + DONE_S
        try:
            for place in range(len(self._peers)):
                self._finish(place, give_up)
        finally:
            for process in self._running:
                process.kill()
                process.communicate()

    def _finish(self, place: int, give_up: float) -> None:
        peer = self._peers[place]
        while True:
            process = self._running[place]
            try:
                _, err = process.communicate(timeout=max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"{peer.status()} {peer.tasks()}\n{peer.log.read_text()}")
            if not process.returncode:
                break
            assert time.monotonic() < give_up, err.decode() + peer.log.read_text()
            time.sleep(0.3)  # as somebody who tries again
            self._running[place] = self._begin(peer)
        assert (peer.run_dir / "f.bin").read_bytes() == BODY


def test_each_role_is_killed_at_random(folder: Path, hosts: Swarm) -> None:
    """``kill -9`` of two of a peer, the seed and the scheduler; each comes back a moment later."""
    seed = int(os.environ.get("CHAOS_SEED", Random().randrange(1 << 30)))
    print(f"CHAOS_SEED={seed}")
    rng = Random(seed)
    with nginx(folder, more="limit_rate 1500k;") as origin:
        scheduler = hosts.scheduler(0, QUICK)
        port = int(hosts.schedulers[0].rpartition(":")[2])
        names = ("seed", "p0", "p1")
        running = dict(
            zip(names, at_once(lambda name: hosts.peer(name, seed=name == "seed"), names), strict=True)
        )
        downloads = Downloads([running["p0"], running["p1"]], origin.url)
        roles = ["scheduler", "seed", rng.choice(["p0", "p1"])]
        for name in rng.sample(roles, 2):
            time.sleep(rng.uniform(0.2, 0.8))  # any moment will do: that is what is tested
            if name == "scheduler":
                scheduler.kill()
                time.sleep(rng.uniform(0, 0.5))
                scheduler = hosts.scheduler(port, QUICK)
            else:
                running[name].kill()
                time.sleep(rng.uniform(0, 0.5))
                running[name] = hosts.peer(name, seed=name == "seed")
        downloads.finish()
        # Nothing wrong was kept anywhere: what is held now is given to who never had it.
        sent = origin.sent_bytes("/f.bin")
        late = running["late"] = hosts.peer("late")
        wait_for(lambda: all(peer.status()["schedulers"] for peer in running.values()), "the scheduler")
        Downloads([late], origin.url).finish()
        assert late.status()["downloads"]["wrong_pieces"] == 0
        assert origin.sent_bytes("/f.bin") - sent < len(BODY) / 2


def cut(port: Port, state: str) -> None:
    """A host's link: up or down."""
    run(["ip", "-n", port.namespace, "link", "set", "eth0", state])


def test_links_are_cut_and_restored(folder: Path, hosts: Swarm) -> None:
    """A peer's link, the seed's, and the origin's with the scheduler's, while everybody downloads.

    Each for so long that the scheduler takes whoever is behind it for gone, and no connection breaks.
    """
    with (
        open_switch([30, 0, 0, 0]) as (at_origin, at_seed, *at_peers),
        nginx(folder, address=at_origin.address, prefix=at_origin.inside) as origin,
    ):
        everywhere(hosts, origin, at_origin, at_seed, at_peers)


def everywhere(hosts: Swarm, origin: Served, at_origin: Port, at_seed: Port, at_peers: list[Port]) -> None:
    scheduler = hosts.scheduler(0, QUICK, prefix=at_origin.inside, host=at_origin.address)
    places = {"seed": at_seed, "p0": at_peers[0], "p1": at_peers[1]}

    def start(name: str) -> Peer:
        at = places[name]
        return hosts.peer(name, seed=name == "seed", prefix=at.inside, listen=f"{at.address}:7000")

    _, *peers = at_once(start, places)
    downloads = Downloads(peers, origin.url)
    wait_for(lambda: all(peer.status()["downloads"]["peer_bytes"] for peer in peers), "pieces")
    for port in (at_peers[0], at_seed, at_origin):
        cut(port, "down")
        time.sleep(0.3)
    time.sleep(1.4)  # the last one, too, is gone for longer than its silence is borne
    for port in (at_origin, at_seed, at_peers[0]):
        cut(port, "up")
    downloads.finish()
    assert "silent for too long" in scheduler.log.read_text()
    assert all(peer.status()["downloads"]["wrong_pieces"] == 0 for peer in peers)
