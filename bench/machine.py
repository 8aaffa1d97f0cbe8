"""One line that says on what the figures were taken."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from demo.process import DemoError, run


def machine_line() -> str:
    """Cores, memory, kernel, Python, CAFS's commit, and how busy the machine was."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_kib = int(re.findall(r"MemTotal: *(\d+)", Path("/proc/meminfo").read_text())[0])
    try:
        commit = run(["git", "describe", "--always", "--dirty"]).strip()
    except DemoError:
        commit = "unknown"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores"
        f" ({cpu[1] if cpu else platform.machine()}), {memory_kib / (1 << 20):.0f} GiB,"
        f" Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}, commit {commit},"
        f" load {os.getloadavg()[0]:.1f}"
    )
