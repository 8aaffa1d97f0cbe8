"""10,000 hosts that say they live and report to one manager on SQLite, while people look at it.

They come by way of four schedulers. ``CAFS_BENCH_MANAGER_SCHEDULERS=0`` has all of them come directly.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import httpx2

from bench.manager.hosts import open_hosts
from bench.manager.running import RunningManager, open_manager
from bench.manager.schedulers import open_schedulers
from bench.measure import Samples
from bench.memory import resident_bytes
from bench.place import Place
from bench.report import Result, Row

HOSTS = int(os.environ.get("CAFS_BENCH_MANAGER_HOSTS", "10000"))
SCHEDULERS = int(os.environ.get("CAFS_BENCH_MANAGER_SCHEDULERS", "4"))
MEASURED_S = float(os.environ.get("CAFS_BENCH_MANAGER_SECONDS", "120"))
SETTLED_S = 45.0
"""For the rhythm of reports to be what the manager wants of so many."""
CORES, MEMORY_BYTES, P99_S = 0.5, 300 << 20, 0.1
_ASK_EVERY_S = 0.25
_PATIENCE_S = 300.0
ELSEWHERE = ("nice", "-n", "10")
"""Schedulers and hosts have processors of their own, and do not keep a manager from its."""
QUESTIONS = (
    "/hosts?limit=100",
    "/clusters",
    "/statistics/totals",
    "/statistics/series?metric=origin_bytes&metric=seed_bytes&metric=peer_bytes&metric=hit_ratio",
    f"/statistics/series?metric=peer_bytes&host_id={7:032x}",
    "/statistics/top?of=task&by=peer_bytes",
    "/statistics/top?of=host&by=origin_bytes",
)


def run_case(place: Place) -> Result:
    with (
        open_manager(place.path) as manager,
        open_schedulers(place.path, manager.services, SCHEDULERS, ELSEWHERE) as schedulers,
        open_hosts([each.address for each in schedulers] or [manager.services], HOSTS, ELSEWHERE),
    ):
        manager.await_hosts(HOSTS, _PATIENCE_S)
        place.say(f"{HOSTS} hosts are here")
        time.sleep(SETTLED_S)
        before, counted, began = _cpu_s(manager.pid), _reports(manager), time.monotonic()
        asked = _ask(manager, MEASURED_S)
        took_s = time.monotonic() - began
        cores = (_cpu_s(manager.pid) - before) / took_s
        ends_with = resident_bytes(manager.pid)
        held = resident_bytes(manager.pid, "VmHWM")
        reports = _reports(manager) - counted
        size = sum(file.stat().st_size for file in (place.path / "m").rglob("manager.db*"))
        each = [resident_bytes(scheduler.pid) >> 20 for scheduler in schedulers]
    place.say(f"manager at the end: {ends_with >> 20} MiB; schedulers: {each} MiB")
    place.say(f"{reports / took_s:.0f} reports a second; database {size >> 20} MiB")
    slowest = {path: sorted(took)[int(0.99 * len(took))] for path, took in asked.items()}
    for path, took in slowest.items():
        place.say(f"{path.partition('&')[0]}: p99 {took * 1000:.0f} ms")
    every = sorted(took for times in asked.values() for took in times)
    p99 = every[int(0.99 * len(every))]
    return Result(
        "manager_load",
        "A manager and 10,000 hosts",
        f"{HOSTS} peers, each on a connection of its own {_where()}, say that they live, and report as often"
        f" as the manager wants and as much as busy peers do ({reports / took_s:.0f} reports a second), to"
        " one `cafs manager` on SQLite; four times a second somebody asks REST."
        f" {MEASURED_S:.0f} s, after all had come. Schedulers and hosts run on this machine's cores, too, at"
        " a lower priority: elsewhere they have their own.",
        (
            Row("processor", f"{cores:.2f} cores", "", "", f"under {CORES} cores", cores < CORES),
            Row("memory, at most", f"{held >> 20} MiB", "", "", f"under {MEMORY_BYTES >> 20} MiB",
                held < MEMORY_BYTES),
            *_of_schedulers(each),
            Row("REST, median", f"{every[len(every) // 2] * 1000:.0f} ms", "", "", "", None),
            Row("REST, p99", f"{p99 * 1000:.0f} ms", "", "", f"under {P99_S * 1000:.0f} ms", p99 < P99_S),
        ),
    )  # fmt: skip


def _of_schedulers(each: list[int]) -> list[Row]:
    """Their memory, in MiB."""
    if not each:
        return []
    return [Row(f"a scheduler of {HOSTS // SCHEDULERS} of them", f"{max(each)} MiB", "", "", "", None)]


def _where() -> str:
    """To whom."""
    return f"to one of {SCHEDULERS} schedulers that pass all on" if SCHEDULERS else "to the manager"


def _reports(manager: RunningManager) -> int:
    """That it counted since it began."""
    text = httpx2.get(f"http://127.0.0.1:{manager.metrics_port}/metrics", trust_env=False).text
    found = re.search(r"^cafs_manager_reports_total (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _ask(manager: RunningManager, for_s: float) -> Samples:
    asked: dict[str, list[float]] = {path: [] for path in QUESTIONS}
    end = time.monotonic() + for_s
    turn = 0
    while (began := time.monotonic()) < end:
        path = QUESTIONS[turn % len(QUESTIONS)]
        turn += 1
        manager.rest.get(path).raise_for_status()
        took = time.monotonic() - began
        asked[path].append(took)
        time.sleep(max(0.0, _ASK_EVERY_S - took))
    return asked


def _cpu_s(pid: int) -> float:
    """Of all its threads: proc(5), fields 14 and 15 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
