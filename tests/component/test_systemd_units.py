"""The units in deploy/systemd, as systemd itself reads them."""

from __future__ import annotations

import configparser
import os
import re
import socket
import subprocess
from pathlib import Path

import click
import pytest

from cafs.cli.context import Context
from cafs.cli.main import cli
from tests.support.notify import started
from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command
from tests.support.snapshotter import RunningSnapshotter

ROOT = Path(__file__).resolve().parents[2]
MOUNTING = ("cafs-mountd.service", "cafs-snapshotter.service")
UNITS = (
    *MOUNTING,
    *(f"cafs-{name}.service" for name in ("manager", "peer", "proxy", "scheduler", "seed")),
)
PRIVATE = ("PrivateTmp", "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "TemporaryFileSystem", "BindPaths")
"""Each gives a unit mounts of its own, which no container would see."""


def install(target: Path, program: str = "/bin/true") -> None:
    subprocess.run(
        [ROOT / "deploy/install-systemd.sh", program],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_UNITS": str(target)},
        check=True,
        capture_output=True,
    )


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    install(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / unit) for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if "cafs" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_snapshotter_feeds_the_watchdog_of_its_unit(short_tmp_path: Path) -> None:
    running = RunningSnapshotter(short_tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{short_tmp_path}/n")
        notify.settimeout(PATIENCE_S)
        process = subprocess.Popen(
            running.command(), cwd=ROOT, env={**os.environ, "NOTIFY_SOCKET": f"{short_tmp_path}/n"}
        )
        try:
            assert notify.recv(4096) == b"FDSTORE=1\nFDNAME=cafs-containerd"
            assert notify.recv(4096) == b"READY=1"
            assert notify.recv(4096) == b"WATCHDOG=1"
            process.terminate()
            assert notify.recv(4096) == b"STOPPING=1"
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("unit", UNITS)
def test_the_command_is_one_of_ours(unit: str) -> None:
    [line] = re.findall(
        r"^ExecStart=/usr/local/bin/cafs (.*)$", (ROOT / "deploy/systemd" / unit).read_text(), re.M
    )
    name, *options = line.split()
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    with command.make_context(name, options, obj=Context()):
        pass


def test_the_proxy_says_that_it_is_ready_and_ends_as_its_unit_expects(short_tmp_path: Path) -> None:
    log = short_tmp_path / "log"
    process = started(cafs_command("proxy", "--listen=127.0.0.1:0", "--no-p2p"), log, short_tmp_path / "n")
    process.terminate()
    unit = (ROOT / "deploy/systemd/cafs-proxy.service").read_text()
    assert f"SuccessExitStatus={process.wait(PATIENCE_S)}\n" in unit


def test_a_second_run_replaces_the_program(tmp_path: Path) -> None:
    install(tmp_path, "/bin/true")
    install(tmp_path, "/bin/false")
    assert "ExecStart=/bin/false mountd" in (tmp_path / UNITS[0]).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(UNITS)


def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        install(tmp_path, "/nowhere/cafs")
    assert not list(tmp_path.iterdir())


def service_of(unit: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names as they are written
    parser.read_string((ROOT / "deploy/systemd" / unit).read_text())
    return parser["Service"]


@pytest.mark.parametrize("unit", ["cafs-manager", "cafs-mountd", "cafs-peer", "cafs-seed"])
def test_who_asks_registries_sees_what_docker_login_left(unit: str) -> None:
    service = service_of(f"{unit}.service")
    assert service["Environment"] == "HOME=/root"
    assert service.get("ProtectHome", "no") in {"no", "read-only"}


@pytest.mark.parametrize("unit", MOUNTING)
def test_mounts_are_the_hosts(unit: str) -> None:
    service = service_of(unit)
    assert not set(PRIVATE) & set(service)
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert service["OOMPolicy"] == "continue"
