"""``--metrics`` of peer and proxy: what Prometheus reads there is what the documents list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
import trio
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from cafs.core.scheduling.limits import Limits
from cafs.core.scheduling.state import State
from cafs.core.settings import Settings
from cafs.errors import StateError
from cafs.http11.metrics_port import metrics_served
from cafs.proxy.figures import Figures
from cafs.proxy.program import Options, run
from cafs.scheduler.tally import Tally
from tests.support.http import ask
from tests.support.peers import swarm, wait_for
from tests.support.program import ROOT

LOOPBACK = ("127.0.0.1", 0)


def documented(document: str, prefix: str) -> set[str]:
    """Names and labels in the table of this prefix: ``name{label}``."""
    _, _, table = (ROOT / "docs" / document).read_text().partition(f"| metric (`{prefix}_…`)")
    cells = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def served(text: bytes, prefix: str) -> set[str]:
    """The same, as Prometheus' own parser reads it; each metric must be explained."""
    found = list(text_string_to_metric_families(text.decode()))
    assert [family.name for family in found if len(family.documentation) < 10] == []
    return {name_of(family).removeprefix(f"{prefix}_") for family in found}


def name_of(family: Metric) -> str:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = sorted({label for sample in family.samples for label in sample.labels if label != "le"})
    return name + (f"{{{','.join(labels)}}}" if labels else "")


def port_of(lines: Iterable[str]) -> int:
    [port] = [int(found[1]) for line in lines if (found := re.search(r"metrics on port (\d+)", line))]
    return port


def test_a_peers_figures(short_tmp_path: Path) -> None:
    with swarm(short_tmp_path) as hosts:
        peer = hosts.peer("p", "--metrics=127.0.0.1:0")
        port = port_of(wait_for(peer.log.read_text, "its log").splitlines())
        answer = trio.run(ask, port, "GET", "/metrics")
        assert served(answer.body, "cafs_peer") == documented("peer.md", "cafs_peer")
        # The port has nothing else of the node socket.
        assert trio.run(ask, port, "GET", "/v1/tasks").status == 404
        assert trio.run(ask, port, "PATCH", "/metrics").status == 405


async def test_a_proxys_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cafs")
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        options = Options("127.0.0.1", 0, p2p=False, metrics=LOOPBACK)
        settings = Settings(cache_dir=tmp_path, run_dir=tmp_path)
        nursery.start_soon(run, settings, options, lambda _: ready.set())
        await ready.wait()
        answer = await ask(port_of(caplog.messages), "GET", "/metrics?x=1")
        nursery.cancel_scope.cancel()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"\ncafs_proxy_connections 0\n" in answer.body


def test_the_proxys_table() -> None:
    figures = Figures(distributed_bytes=7)
    figures.requests["p2p"] += 1
    figures.failures["broken"] += 1
    assert served(figures.render(), "cafs_proxy") == documented("proxy.md", "cafs_proxy")
    assert b'cafs_proxy_sent_bytes_total{way="p2p"} 7\n' in figures.render()


def test_the_schedulers_table() -> None:
    rendered = served(Tally().render(State(Limits(), Random(1)), 0), "cafs_scheduler")
    listed = {name.partition("{")[0] for name in documented("scheduler.md", "cafs_scheduler")}
    assert rendered == listed


async def test_a_port_that_is_taken() -> None:
    [taken] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with taken:
        place = ("127.0.0.1", taken.socket.getsockname()[1])
        with pytest.raises(StateError, match="cannot serve metrics"):
            async with metrics_served(place, bytes):
                pass
