"""The mount server as a service: restarted, upgraded, watched and ended while its layers are read."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from cafs.fuse.syscalls import UnmountFlag, unmount
from tests.support.mountd import erofs, mount_server, push_image, start_mount_server, sums_of
from tests.support.mounts import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.processes import all_ended
from tests.support.program import run_cafs
from tests.support.readers import reading
from tests.support.registry import Registry
from tests.support.systemd import fake_systemd


def test_systemd_restarts_it_under_readers(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/restarts", layers=2, files=60)
    with (
        fake_systemd(short_tmp_path / "notify") as systemd,
        mount_server(short_tmp_path, systemd=systemd) as server,
    ):
        systemd.wait_for("READY=1")
        added = server.client.add_layer(image.layer(0))
        with (
            erofs(server, added, short_tmp_path / "e") as root,
            reading(root, image.sums[0], short_tmp_path) as wait_for,
        ):
            for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
                wait_for(20)
                systemd.forget()
                with all_ended(server.pid("server"), server.pid("supervisor")):
                    if end is signal.SIGKILL:
                        server.kill("server")
                    server.process.send_signal(end)
                    server.process.wait(PATIENCE_S)
                server.process = start_mount_server(short_tmp_path, systemd=systemd).process
                systemd.wait_for("READY=1")
                assert server.client.add_layer(image.layer(0)) == added
            assert server.client.add_layer(image.layer(1)) != added
            wait_for(20)
        assert "taking over the session that was handed over" in server.log
        systemd.forget()
        server.stop()
        systemd.wait_for("FDSTOREREMOVE=1", count=4)
        assert systemd.stored == {}


def test_replaced_by_newer_code_under_readers(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/replaced", files=60)
    with mount_server(short_tmp_path) as server:
        added = server.client.add_layer(image.layer(0))
        with (
            erofs(server, added, short_tmp_path / "e") as root,
            reading(root, image.sums[0], short_tmp_path) as wait_for,
        ):
            for _ in range(2):
                wait_for(20)
                before = server.pid("server"), server.pid("supervisor")
                run_replace(server.run)
                assert server.pid("server") != before[0]
                assert server.pid("supervisor") == before[1], "systemd would take another for a crash"
            wait_for(20)
        server.stop()


def run_replace(run: Path) -> None:
    run_cafs("mountd", "--replace", "--run", run)


def test_the_watchdog_is_fed_only_while_the_server_answers(short_tmp_path: Path) -> None:
    with (
        fake_systemd(short_tmp_path / "notify") as systemd,
        mount_server(short_tmp_path, systemd=systemd, watchdog_s=0.4) as server,
    ):
        systemd.wait_for("WATCHDOG=1", count=3)
        os.kill(server.pid("server"), signal.SIGSTOP)
        systemd.forget()
        with pytest.raises(AssertionError):
            systemd.wait_for("WATCHDOG=1", count=2, timeout_s=1)
        os.kill(server.pid("server"), signal.SIGCONT)
        systemd.wait_for("WATCHDOG=1", count=2)


def test_what_was_handed_over_and_is_dead_is_not_believed(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/dead")
    with (
        fake_systemd(short_tmp_path / "notify") as systemd,
        mount_server(short_tmp_path, systemd=systemd) as server,
    ):
        server.client.add_layer(image.layer(0))
        server.process.terminate()
        server.process.wait(PATIENCE_S)
        unmount(server.run / "fuse", UnmountFlag.NONE)
        server.process = start_mount_server(short_tmp_path, systemd=systemd).process
        assert server.client.layers() == []
        assert "is dead" in server.log
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == image.sums[0]


def test_stop_is_refused_while_a_layer_is_mounted(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/busy", files=60)
    with mount_server(short_tmp_path, "--prefetch", "none") as server:
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            assert "in use" in server.stop(code=1)
            assert (root / "f0").read_bytes()
            server.stop("--force")
            with pytest.raises(OSError, match=r"Input/output error|not connected|connection abort"):
                sums_of_uncached(root)
        assert server.process.wait(PATIENCE_S) == 0
        assert "no mount server" in server.stop()


def sums_of_uncached(root: Path) -> None:
    for path in root.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read()


def test_both_killed_at_once_and_started_anew(docker_registry: Registry, short_tmp_path: Path) -> None:
    """Without systemd the session is lost; nothing of it is left, and the layers can be added again."""
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/lost")
    with mount_server(short_tmp_path) as server:
        added = server.client.add_layer(image.layer(0))
        os.kill(server.pid("supervisor"), signal.SIGSTOP)  # it must not see the server's end
        server.kill("server")
        server.kill("supervisor")
        server.process.wait(PATIENCE_S)
        server.process = start_mount_server(short_tmp_path).process
        assert server.client.layers() == []
        assert server.client.add_layer(image.layer(0)) == added
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == image.sums[0]
        server.stop()


def test_ctrl_c_leaves_nothing(short_tmp_path: Path) -> None:
    with mount_server(short_tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE_S) == 0
        left = {path.name for path in server.run.iterdir()}
        assert left <= {"lock", "mountd.json", "fuse"}
        assert not (server.run / "fuse").is_mount()


def test_code_that_does_not_begin_loses_nothing(docker_registry: Registry, short_tmp_path: Path) -> None:
    """As after an upgrade that went wrong: readers wait until it is mended."""
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/broken", files=10)
    code = short_tmp_path / "code"
    shutil.copytree(ROOT / "cafs", code / "cafs", ignore=shutil.ignore_patterns("__pycache__"))
    with mount_server(short_tmp_path, "--prefetch", "none", code=code) as server:
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            keeper = code / "cafs/node/mountd/keeper.py"
            sound = keeper.read_text()
            keeper.write_text("raise ImportError('broken')\n")
            before = server.pid("server")
            server.kill("supervisor")
            while server.log.count("ImportError: broken") < 12:
                pass
            keeper.write_text(sound)
            assert sums_of(root) == image.sums[0]
            assert server.client.status()["server_pid"] != before
