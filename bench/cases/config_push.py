"""A change of the configuration, until all of 1,000 connected services have it."""

from __future__ import annotations

import os
import time

from bench.manager.hosts import Hosts, open_hosts
from bench.manager.running import RunningManager, open_manager
from bench.measure import median
from bench.place import Place
from bench.report import Result, Row, format_seconds

SERVICES = int(os.environ.get("CAFS_BENCH_PUSH_SERVICES", "1000"))
MOST_S = 2.0
CHANGES = 5
"""In each round."""
SETTLED_S, PAUSE_S = 10.0, 1.0
_PATIENCE_S = 120.0


def run_case(place: Place) -> Result:
    with open_manager(place.path) as manager, open_hosts([manager.services], SERVICES) as hosts:
        manager.await_hosts(SERVICES, _PATIENCE_S)
        place.say(f"{SERVICES} services are here")
        time.sleep(SETTLED_S)
        taken = [_change(manager, hosts, number) for number in range(CHANGES * place.rounds)]
    slowest, middle = [times[-1] for times in taken], [median(times) for times in taken]
    worst = max(slowest)
    place.say(f"until all have it: {median(slowest):.2f} s, at most {worst:.2f} s")
    return Result(
        "config_push",
        f"A change of the configuration, until {SERVICES:,} services have it",
        f"{SERVICES:,} peers, each on a connection of its own, from one process, that live and report;"
        " one `cafs manager` on SQLite. A limit and a rule are changed through REST"
        " (`PUT …/configuration`): from the request until the last service has received and checked the new"
        " version. All of them say then that they run it, too, which the manager writes down.",
        (
            Row("until all have it", format_seconds(slowest), "", "", f"under {MOST_S:.0f} s",
                median(slowest) < MOST_S),
            Row("the slowest change", f"{worst:.2f} s", "", "", f"under {MOST_S:.0f} s", worst < MOST_S),
            Row("until half of them have it", format_seconds(middle), "", "", "", None),
        ),
        {"until all have it": slowest, "until half of them have it": middle},
    )  # fmt: skip


def _change(manager: RunningManager, hosts: Hosts, number: int) -> list[float]:
    """Seconds until each service had it, the slowest last."""
    document = {
        "peer": {"upload_bytes_per_s": (100 + number) << 20, "concurrent_uploads": 32 + number},
        "block": [{"application": "batch", "url": rf"release-{number}\.iso$"}],
    }
    began = time.monotonic_ns()
    version = manager.call(
        "PUT", "/clusters/1/configuration", json={"document": document}, headers={"If-Match": "*"}
    )["version"]
    while (pushed := hosts.pushed()).version != version:
        pass
    time.sleep(PAUSE_S)
    return [(held - began) / 1e9 for held in pushed.held_ns]
