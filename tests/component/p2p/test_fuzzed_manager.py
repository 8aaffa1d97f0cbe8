"""A manager that says anything to ``cafs peer``, over real gRPC: the peer goes on, and hears what is good."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from random import Random

from cafs.proto import manager_pb2
from tests.support.managed_peers import Peer, peers
from tests.support.manager_client import until
from tests.support.random_messages import random_message
from tests.support.saying_manager import SayingManager, saying_manager
from tests.support.service_words import TO_SERVICES

NOBODY = "127.0.0.1:9"
USUAL = TO_SERVICES | {
    "addresses": [NOBODY],
    "url": [f"http://{NOBODY}/f?x=1", f"http://{NOBODY}/v2/a/blobs/sha256:" + "d" * 64],
    "PreheatImage.image": [f"{NOBODY}/team/app:v1"],
}
WELCOME = manager_pb2.ToService(welcome=manager_pb2.Welcome(replica_id="e" * 32, alive_every_ms=1000))
_VERSIONS = count(100)


def goes_on(manager: SayingManager, peer: Peer) -> None:
    """It obeys, and does as it is told."""
    version = next(_VERSIONS)
    document = json.dumps({"peer": {"concurrent_uploads": version}}).encode()
    listing = manager_pb2.Order(job_id=version, attempt=1, list=manager_pb2.ListHeld())
    manager.say(
        WELCOME,
        manager_pb2.ToService(
            configuration=manager_pb2.Configuration(cluster_id=1, version=version, document=document)
        ),
        manager_pb2.ToService(orders=manager_pb2.Orders(orders=[listing])),
    )
    manager.hear(lambda said: said.running == manager_pb2.Running(cluster_id=1, version=version))
    assert peer.limit("concurrent_uploads") == version
    done = manager.hear(
        lambda said: said.order_report.job_id == version and said.order_report.progress != manager_pb2.DOING
    ).order_report
    assert done.progress == manager_pb2.DONE
    assert json.loads(done.result)["tasks"] == 0


def test_a_manager_that_says_anything(tmp_path: Path, short_tmp_path: Path) -> None:
    """None of it is a mistake of the peer's, and what held before holds until something good comes."""
    rng = Random(8)
    log = tmp_path / "log"
    with saying_manager() as manager, log.open("wb") as told:
        peer = Peer(short_tmp_path, f"--set=managers={manager.address}", log=told)
        with peers(peer):
            manager.hear(lambda said: said.HasField("hello"))
            goes_on(manager, peer)
            for _ in range(25):
                manager.say(*(random_message(rng, manager_pb2.ToService, USUAL) for _ in range(12)))
                goes_on(manager, peer)
            assert manager.streams == 1
            manager.say_bytes(b"\xff")
            until(lambda: manager.streams == 2)
            goes_on(manager, peer)
    for word in ("Traceback", "mistake"):
        assert word not in log.read_text()
