"""Every query of the Grafana dashboard, against what real programs say when Prometheus asks them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import trio
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from cafs.core.exposition import Histogram
from cafs.fetch.stats import Counters
from cafs.node.mountd.figures import Figures
from cafs.node.mountd.metrics import render_metrics
from tests.support.http import ask
from tests.support.nginx import Served
from tests.support.peers import Process, Swarm, wait_for
from tests.support.program import ROOT

BODY = os.urandom(1 << 20)
DASHBOARD = json.loads((ROOT / "deploy/grafana/cafs.json").read_text())
PLAIN = "--metrics=127.0.0.1:0"
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that it adds, and that of a histogram's bounds."""
Samples = dict[str, list[dict[str, str]]]
"""Labels of the samples of each name."""


def targets() -> list[tuple[str, dict[str, Any]]]:
    return [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def parsed(expression: str) -> Any:
    """As Prometheus does, once Grafana has filled in its variables."""
    filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    assert "$" not in filled
    return promql_parser.parse(filled)


def parts(expression: Any) -> Iterator[Any]:
    """Of a query, itself included."""
    yield expression
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if isinstance(found := getattr(expression, name, None), promql_parser.Expr):
            yield from parts(found)
    for found in getattr(expression, "args", None) or ():
        yield from parts(found)


def selected(selector: Any, samples: Samples) -> list[dict[str, str]]:
    """What a selector finds, wherever that runs."""
    found = samples.get(selector.name, [])
    for matcher in selector.matchers.matchers:
        if matcher.name in OF_PROMETHEUS:
            continue
        pattern = matcher.value if "Re" in str(matcher.op) else re.escape(matcher.value)
        found = [labels for labels in found if re.fullmatch(pattern, labels.get(matcher.name, ""))]
    return found


def scrape(process: Process) -> list[Metric]:
    port = int(wait_for(lambda: re.search(r"metrics on port (\d+)", process.log.read_text()), "a port")[1])
    return list(text_string_to_metric_families(trio.run(ask, port, "GET", "/metrics").body.decode()))


def mount_server() -> list[Metric]:
    """Its figures, of one in which nothing happened."""
    counters = Counters()
    service = counters.snapshot(
        under_way=0, not_stored=0, touched_frame_bytes=0, touched_bytes=0, total_bytes=0
    )
    figures = Figures(service, (), 0, Histogram(), {}, 0, 0.0)
    return list(text_string_to_metric_families(render_metrics(figures, counters).decode()))


@pytest.fixture
def samples(hosts: Swarm, origin: Served) -> Samples:
    """Of programs that did something, well and not."""
    manager = hosts.manager(PLAIN)
    where = f"--set=managers={manager.services}"
    scheduler = hosts.scheduler(0, PLAIN, where)
    peer = hosts.peer("p", PLAIN, where)
    proxy = hosts.proxy(peer, PLAIN, where, f"--set=proxy_allow={origin.host}")
    assert proxy.curl(f"{origin.url}/f.bin").stdout == BODY
    assert proxy.curl("http://127.0.0.1:1/", "-w%{http_code}").stdout.endswith(b"403")

    def counted() -> bool:
        return {"cafs_manager_traffic_bytes", "cafs_manager_downloads"} <= {
            family.name for family in scrape(manager) if family.samples
        }

    wait_for(counted, "traffic")
    found: Samples = {}
    for families in (*map(scrape, (manager, scheduler, peer, proxy)), mount_server()):
        for sample in (sample for family in families for sample in family.samples):
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_each_query_finds_what_programs_say(samples: Samples) -> None:
    """Names, labels, and values of labels."""
    wrong = []
    for title, target in targets():
        query = parsed(target["expr"])
        selectors = [each for each in parts(query) if isinstance(each, promql_parser.VectorSelector)]
        found = [labels for selector in selectors for labels in selected(selector, samples)]
        nothing = [each.name for each in selectors if not selected(each, samples)]
        known = {name for labels in found for name in labels} | OF_PROMETHEUS
        by = {
            name
            for each in parts(query)
            if isinstance(each, promql_parser.AggregateExpr) and each.modifier is not None
            for name in each.modifier.labels
        }
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        if not selectors or nothing or by - known or shown - (by | {"instance"}):
            wrong.append((title, target["expr"], nothing, by - known, shown - by))
    assert wrong == []


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
