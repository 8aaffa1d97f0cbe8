"""What the proxy adds to a request for one byte: warm, and the first time in the cluster."""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit

from bench.measure import clock, median
from bench.peers.cluster import open_cluster, open_origin
from bench.place import Place
from bench.report import Result, Row
from demo.process import DemoError

FILES = int(os.environ.get("CAFS_BENCH_PROXY_FILES", "100"))
WARM_MS, FIRST_MS = 3.0, 30.0


def run_case(place: Place) -> Result:
    (place.path / "www").mkdir()
    for number in range(FILES):
        (place.path / f"www/f{number}").write_bytes(b"x")
    with open_origin(place.path) as origin, open_cluster(place.path) as cluster:
        cluster.start_scheduler()
        cluster.start_peer("seed", seed=True)
        allowed = f"proxy_allow={urlsplit(origin.url).netloc}"
        proxy = cluster.start_proxy(cluster.start_peer("node"), [allowed, "proxy_rules=p2p .*"])
        direct, first, warm = [], [], []
        for number in range(FILES):
            url = f"{origin.url}/f{number}"
            direct.append(clock(lambda url=url: _ask(urlsplit(url).netloc, urlsplit(url).path)))
            first.append(clock(lambda url=url: _ask(proxy, url)))
            warm.append(clock(lambda url=url: _ask(proxy, url)))
    added = {
        "warm": (median(warm) - median(direct)) * 1000,
        "first time in the cluster": (median(first) - median(direct)) * 1000,
    }
    rows = [
        Row(what, f"+{added[what]:.1f} ms", f"direct {median(direct) * 1000:.1f} ms", "",
            f"under +{most:.0f} ms", added[what] < most)
        for what, most in (("warm", WARM_MS), ("first time in the cluster", FIRST_MS))
    ]  # fmt: skip
    return Result(
        "proxy_latency",
        "One byte through the proxy",
        f"{FILES} files of one byte, a month old, behind nginx on loopback; each asked for directly, then"
        " through `cafs proxy` beside a peer (scheduler and seed run, too) for the first time, then again."
        " Every request has a connection of its own.",
        tuple(rows),
        {"direct": direct, "first": first, "warm": warm},
    )


def _ask(host: str, target: str) -> None:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        if (answer.status, answer.read()) != (http.client.OK, b"x"):
            raise DemoError(f"{target} was answered with {answer.status}")
    finally:
        connection.close()
