"""The watches over logs, processes and mounts see what they are there for."""

import ctypes
import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx

from tests.support.leaks import leftovers, look_around
from tests.support.logs import ExpectedLogs, LogWatch
from tests.support.netns import Link
from tests.support.registry import Registry, start_registry


def test_an_undeclared_warning_is_told(expected_logs: ExpectedLogs) -> None:
    expected_logs.allow("disk is odd")
    watch = LogWatch()
    logger = logging.getLogger("cafs.test")
    logger.addHandler(watch)
    logger.warning("disk is odd")
    logger.removeHandler(watch)
    assert "WARNING cafs.test: disk is odd" in (watch.complaint(ExpectedLogs()) or "")
    declared = ExpectedLogs()
    declared.expect("disk .* odd")
    assert watch.complaint(declared) is None
    declared.expect("never comes")
    assert "no log record with 'never comes'" in (watch.complaint(declared) or "")


def test_a_daemon_left_behind_is_told_and_ended() -> None:
    before = look_around()
    # Its parent ends at once; it stays, as a child of init.
    script = "import os, time\nif os.fork() == 0:\n os.setsid(); os.close(1); time.sleep(600)"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    (told,) = leftovers(before, set(), grace_ms=100)
    assert "time.sleep(600)" in told
    assert leftovers(before, set()) == []


def test_a_mount_left_behind_is_told_and_unmounted(tmp_path: Path) -> None:
    point = tmp_path / "a mount"
    point.mkdir()
    before = look_around()
    assert ctypes.CDLL(None).mount(b"none", bytes(point), b"tmpfs", 0, None) == 0
    (told,) = leftovers(before, set())
    assert told.startswith("mount ")
    assert leftovers(before, set()) == []


def test_a_link_is_as_slow_as_it_says(slow_link: Link, tmp_path: Path) -> None:
    body = bytes(5_000_000)
    script = (
        "import sys, time, urllib.request\n"
        "began = time.monotonic()\n"
        "assert len(urllib.request.urlopen(sys.argv[1]).read()) == 5_000_000\n"
        "print(time.monotonic() - began)"
    )
    registry = start_registry(tmp_path, address=slow_link.address)
    try:
        url = push_blob(registry, body)
        done = subprocess.run(
            [*slow_link.inside, sys.executable, "-c", script, url],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        registry.stop()
    assert done.returncode == 0, done.stderr
    assert 0.15 < float(done.stdout) < 3, "200 Mbit/s carry 5 MB in 0.2 s"


def push_blob(registry: Registry, body: bytes) -> str:
    """Upload ``body`` and return its URL."""
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    begun = httpx.post(f"{registry.url}/v2/slow/link/blobs/uploads/")
    httpx.put(httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest}), content=body)
    return f"{registry.url}/v2/slow/link/blobs/{digest}"
