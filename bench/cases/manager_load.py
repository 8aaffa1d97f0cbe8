"""10,000 hosts that say they live and report to one manager on SQLite, while people look at it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from bench.measure import Samples
from bench.memory import resident_bytes
from bench.place import Place
from bench.report import Result, Row
from demo.process import DemoError

HOSTS = int(os.environ.get("CAFS_BENCH_MANAGER_HOSTS", "10000"))
MEASURED_S = float(os.environ.get("CAFS_BENCH_MANAGER_SECONDS", "120"))
SETTLED_S = 45.0
"""For the rhythm of reports to be what the manager wants of so many."""
CORES, MEMORY_BYTES, P99_S = 0.5, 300 << 20, 0.1
_ASK_EVERY_S = 0.25
_PATIENCE_S = 300.0
_ROOT = Path(__file__).resolve().parents[2]
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
    with _manager(place.path) as manager, _hosts(manager):
        _until_here(manager)
        place.say(f"{HOSTS} hosts are here")
        time.sleep(SETTLED_S)
        before, counted, began = _cpu_s(manager.pid), manager.reports(), time.monotonic()
        asked = _ask(manager, MEASURED_S)
        took_s = time.monotonic() - began
        cores = (_cpu_s(manager.pid) - before) / took_s
        held = resident_bytes(manager.pid, "VmHWM")
        reports = manager.reports() - counted
        size = sum(file.stat().st_size for file in (place.path / "m").rglob("manager.db*"))
    place.say(f"{reports / took_s:.0f} reports a second; database {size >> 20} MiB")
    slowest = {path: sorted(took)[int(0.99 * len(took))] for path, took in asked.items()}
    for path, took in slowest.items():
        place.say(f"{path.partition('&')[0]}: p99 {took * 1000:.0f} ms")
    every = sorted(took for times in asked.values() for took in times)
    p99 = every[int(0.99 * len(every))]
    return Result(
        "manager_load",
        "A manager and 10,000 hosts",
        f"{HOSTS} peers, each on a connection of its own, say that they live, and report as often as the"
        f" manager wants and as much as busy peers do ({reports / took_s:.0f} reports a second), to one"
        " `cafs manager` on SQLite; four times a second somebody asks REST."
        f" {MEASURED_S:.0f} s, after all had come.",
        (
            Row("processor", f"{cores:.2f} cores", "", "", f"under {CORES} cores", cores < CORES),
            Row("memory, at most", f"{held >> 20} MiB", "", "", f"under {MEMORY_BYTES >> 20} MiB",
                held < MEMORY_BYTES),
            Row("REST, median", f"{every[len(every) // 2] * 1000:.0f} ms", "", "", "", None),
            Row("REST, p99", f"{p99 * 1000:.0f} ms", "", "", f"under {P99_S * 1000:.0f} ms", p99 < P99_S),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Manager:
    pid: int
    services: str
    rest: httpx2.Client
    metrics: str

    def reports(self) -> int:
        """That it counted since it began."""
        text = httpx2.get(self.metrics, trust_env=False).text
        found = re.search(r"^cafs_manager_reports_total (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0


@contextmanager
def _manager(folder: Path) -> Iterator[_Manager]:
    log = folder / "manager.log"
    command = [sys.executable, "-m", "cafs", "manager", "--listen=127.0.0.1:0", "--rest=127.0.0.1:0"]
    command += ["--metrics=127.0.0.1:0", f"--set=cache_dir={folder}/m"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=_ROOT, stdout=output, stderr=output) as process,
    ):
        try:
            told = _wait_for(
                log,
                r"setup\?link=(\S+)[\s\S]*metrics on port (\d+)[\s\S]*services on (\S+)[\s\S]*REST on (\S+)",
            )
            link, port, services, site = told.groups()
            with httpx2.Client(base_url=f"{site}/api/v1", trust_env=False, timeout=30) as rest:
                whom = {"name": "root", "password": "correct horse battery"}
                rest.post("/setup", json={"link": link, **whom}).raise_for_status()
                token = rest.post("/sessions", json=whom).json()["token"]
                rest.headers["Authorization"] = f"Bearer {token}"
                yield _Manager(process.pid, services, rest, f"http://127.0.0.1:{port}/metrics")
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def _hosts(manager: _Manager) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.manager.hosts", manager.services, str(HOSTS)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.kill()


def _until_here(manager: _Manager) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while (here := manager.rest.get("/clusters/1").json()["active_hosts"]) < HOSTS:
        if time.monotonic() > give_up:
            raise DemoError(f"{here} of {HOSTS} hosts came")
        time.sleep(1)


def _ask(manager: _Manager, for_s: float) -> Samples:
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


def _wait_for(log: Path, pattern: str) -> re.Match[str]:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if found := re.search(pattern, log.read_text()):
            return found
        time.sleep(0.1)
    raise DemoError(f"the manager did not start:\n{log.read_text()}")
