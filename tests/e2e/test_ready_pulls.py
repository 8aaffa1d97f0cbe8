"""Pulls run by a process that the snapshotter keeps ready: it is the command, whatever becomes of both."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from cafs.cli.pull_errand import DECLINED, Errand, whereabouts
from tests.support.container_images import PushedImage, base_layer, data_layer, push_container_image
from tests.support.containerd import Containerd
from tests.support.faults import FaultyRegistry, Stall
from tests.support.oci import log_in
from tests.support.patience import PATIENCE_S
from tests.support.processes import all_ended
from tests.support.program import cafs_command, run_cafs
from tests.support.registry import PASSWORD, Registry
from tests.support.snapshotter import RunningSnapshotter, running_snapshotter

OVERLAY = ("--snapshotter", "overlayfs")


@pytest.fixture
def snapshotter(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSnapshotter]:
    with running_snapshotter(short_tmp_path) as running:
        monkeypatch.setenv("CAFS_RUN_DIR", str(running.run))
        yield running


@pytest.fixture
def image(docker_registry: Registry) -> PushedImage:
    return push_container_image(docker_registry, "ready/app", [base_layer(), data_layer(0)])


class Stalled:
    """A pull that has got to its second layer, and gets no further until the registry is well again."""

    def __init__(
        self, containerd: Containerd, image: PushedImage, registry: FaultyRegistry, options: Sequence[str]
    ) -> None:
        layer = f"blobs/{image.layers[1].digest}"
        reference = image.reference.replace(image.reference.partition("/")[0], registry.host)
        registry.fail(Stall(after=1000), path=layer)
        command = cafs_command(
            "pull", reference, "--address", containerd.address, *OVERLAY, "--json", *options
        )
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        registry.wait_until_asked(layer)

    def runner(self) -> int:
        """The process that works for it: of all that hold its standard output, the one that is not it."""
        assert self.process.stdout is not None
        pipe = os.fstat(self.process.stdout.fileno()).st_ino
        holding = set()
        for path in Path("/proc").glob("[0-9]*/fd/1"):
            with suppress(OSError):  # it ended meanwhile
                if path.stat().st_ino == pipe:
                    holding.add(int(path.parts[2]))
        (found,) = holding - {self.process.pid}
        return found

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@pytest.fixture
def stalled(
    request: pytest.FixtureRequest,
    containerd: Containerd,
    image: PushedImage,
    faulty_registry: FaultyRegistry,
    snapshotter: RunningSnapshotter,
) -> Iterator[Stalled]:
    pull = Stalled(containerd, image, faulty_registry, getattr(request, "param", ()))
    yield pull
    pull.process.kill()
    pull.process.communicate()


def test_the_command_loads_nothing(
    snapshotter: RunningSnapshotter, containerd: Containerd, image: PushedImage
) -> None:
    where = ("--address", containerd.address, *OVERLAY)
    done = run_cafs("pull", image.reference, *where, env={"PYTHONPROFILEIMPORTTIME": "1"})
    loaded = [line.rpartition("|")[2].strip() for line in done.err.splitlines() if "|" in line]
    assert "cafs.cli.pull_errand" in loaded
    assert not {"click", "json", "re", "typing", "socket", "trio", "grpc", "cafs.cli.main"} & set(loaded)
    assert image.target.digest in done.out
    assert stat.S_IMODE((snapshotter.run / "pull.sock").stat().st_mode) == 0o600


def test_the_commands_death_cancels_the_pull(stalled: Stalled, containerd: Containerd) -> None:
    with all_ended(stalled.runner()):
        stalled.process.kill()
    assert containerd.ctr("leases", "ls").splitlines()[1:] == []
    assert containerd.ctr("content", "active").splitlines()[1:] == []


@pytest.mark.parametrize("stalled", [("--set=stall_timeout_s=2",)], indirect=True, ids=["impatient"])
def test_a_killed_snapshotter_does_not_end_a_pull(
    stalled: Stalled, snapshotter: RunningSnapshotter, faulty_registry: FaultyRegistry, image: PushedImage
) -> None:
    snapshotter.kill()
    faulty_registry.heal()
    code, out, err = stalled.end()
    assert code == 0, err
    assert image.target.digest in out


def test_when_the_process_is_killed_the_command_pulls_itself(
    stalled: Stalled, faulty_registry: FaultyRegistry, image: PushedImage
) -> None:
    runner = stalled.runner()
    faulty_registry.heal()
    os.kill(runner, signal.SIGKILL)
    code, out, err = stalled.end()
    assert code == 0, err
    assert image.target.digest in out


def test_when_the_snapshotter_is_stopped_the_command_pulls_itself(
    stalled: Stalled,
    snapshotter: RunningSnapshotter,
    faulty_registry: FaultyRegistry,
    image: PushedImage,
    containerd: Containerd,
) -> None:
    faulty_registry.heal()
    assert snapshotter.stop() == 0
    code, out, err = stalled.end()
    assert code == 0, err
    assert "interrupted" not in err
    assert image.target.digest in out
    assert containerd.ctr("leases", "ls").splitlines()[1:] == []
    assert not (snapshotter.run / "pull.sock").exists()


def test_secrets_stay_with_the_pull(
    snapshotter: RunningSnapshotter,
    containerd: Containerd,
    basic_registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(tmp_path, monkeypatch, basic_registry.host)
    made = push_container_image(basic_registry, "private/ready", [base_layer()])
    where = ("--address", containerd.address, *OVERLAY)
    log_in(tmp_path, monkeypatch, basic_registry.host, password="not the password")
    run_cafs("pull", made.reference, *where, code=1)
    log_in(tmp_path, monkeypatch, basic_registry.host)
    run_cafs("pull", made.reference, *where)
    assert PASSWORD not in snapshotter.log
    assert "not the password" not in snapshotter.log
    monkeypatch.delenv("DOCKER_CONFIG")
    assert "wants credentials" in run_cafs("pull", made.reference, *where, code=1).err


def test_another_version_pulls_itself(snapshotter: RunningSnapshotter, tmp_path: Path) -> None:
    version, *others = whereabouts()
    for same, arguments in (
        ([version + ".1", *others], [b"pull", b"registry.example/app"]),
        ([version, *others], [b"convert", b"registry.example/app"]),
    ):
        errand = Errand(same, ["utf-8", "strict"] * 2, arguments, {}).encode()
        with (tmp_path / "file").open("w+") as file, socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(snapshotter.run / "pull.sock"))
            socket.send_fds(connection, [errand], [file.fileno()] * 4)
            assert connection.recv(10) == DECLINED
    assert snapshotter.log.count("left to its own command") == 2
