"""``cafs up``: all services as real processes, found by other commands, restarted, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from cafs.p2p.task_files import decode_record
from tests.support.nginx import Served
from tests.support.patience import PATIENCE_S
from tests.support.peers import wait_for
from tests.support.processes import all_ended
from tests.support.program import run_cafs
from tests.support.up import ANYWHERE, only, running_up

BODY = os.urandom((3 << 20) + 5)


def mount_id(point: Path) -> str:
    """Of what is mounted there: another session has another one."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").split("\n")[:-1]
    return next((line.split()[2] for line in lines if line.split()[4] == str(point)), "")


def is_written(data: Path, task: str) -> bool:
    """It has all pieces in this machine's peer's own words, which a kill does not take away."""
    record = data / "peer/tasks" / task / "record"
    return record.exists() and decode_record(record.read_bytes()).whole


def test_everything_is_ready_feeds_a_download_and_ends(short_tmp_path: Path, origin: Served) -> None:
    with running_up(short_tmp_path / "d") as up:
        told = up.ready()
        where = {(row["service"], row["what"]): row["where"] for row in told["services"]}
        assert told["left_out"] == {}
        assert set(up.pids()) == {"manager", "scheduler", "seed", "peer", "mountd", "snapshotter"}
        assert where["manager", "set up"].startswith(where["manager", "REST"] + "/setup?link=")
        with urllib.request.urlopen(where["manager", "REST"] + "/healthz", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
        for kind in ("scheduler", "seed", "peer"):  # each has found the manager
            up.heard(f"{kind:<11} │ the manager has us")

        up.heard("is here", 5)  # two hosts at the scheduler, three services at the manager
        up.cafs("get", f"{origin.url}/f.bin", "-o", short_tmp_path / "got", "--quiet")
        assert (short_tmp_path / "got").read_bytes() == BODY
        [task] = up.cafs("--json", "task", "ls").json
        # What hosts say of pieces, the scheduler hears a moment later.
        pieces = "4 pieces came from the source, 4 from hosts"
        explained = wait_for(
            lambda: out if pieces in (out := up.cafs("task", "explain", task["id"]).out) else None, pieces
        )
        assert "it is the seed" in explained

        wait_for(lambda: is_written(up.data, task["id"]), "the peer wrote down that it has all")
        before = up.pids()["peer"]
        os.kill(before, signal.SIGKILL)
        up.heard("up          │ WARNING: peer ended (killed by SIGKILL) and starts again in 0.5 s")
        up.heard("peer ready on", 3)
        assert up.pids()["peer"] != before
        [again] = up.cafs("--json", "task", "ls").json
        assert again["id"] == task["id"]

        with all_ended(*up.everybody()):
            assert up.end() == 0
        assert "Traceback" not in up.log
        assert mount_id(up.data / "run/mountd/fuse") == ""


def test_a_killed_mount_server_goes_on_with_its_mount_and_nothing_outlives_a_killed_up(
    short_tmp_path: Path,
) -> None:
    with running_up(short_tmp_path / "d", *only("mountd")) as up:
        up.ready()
        fuse = up.data / "run/mountd/fuse"
        first, before = mount_id(fuse), up.pids()["mountd"]
        os.kill(before, signal.SIGKILL)
        up.heard("taking over the session that was handed over")
        up.heard("took over; unanswered requests come again")
        assert mount_id(fuse) == first != ""
        # One that replaced itself is still ours.
        up.cafs("mountd", "--replace")
        assert mount_id(fuse) == first
        with all_ended(*up.everybody()):
            up.process.kill()
        wait_for(lambda: not mount_id(fuse), "the mount is gone")


def test_two_side_by_side_and_a_second_one_on_the_same_data(short_tmp_path: Path) -> None:
    services = only("scheduler", "peer")
    with (
        running_up(short_tmp_path / "a", *services) as one,
        running_up(short_tmp_path / "b", *services) as two,
    ):
        one.ready()
        two.ready()
        node = (one.data / "node.toml").read_text()
        refused = run_cafs("up", f"--data={one.data}", *ANYWHERE, *services, code=1)
        assert refused.err == f"cafs: another cafs up runs on {one.data}/run/up\n"
        assert (one.data / "node.toml").read_text() == node
        assert [one.end(), two.end(signal.SIGTERM)] == [0, 0]


def test_a_port_that_is_taken(short_tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [*ANYWHERE, f"--scheduler=127.0.0.1:{port}"]
        refused = run_cafs("up", f"--data={short_tmp_path}/d", *words, code=1)
    assert refused.err == (
        f"cafs: 127.0.0.1:{port} is taken: choose another address with --scheduler HOST:PORT"
        " (port 0: any free one)\n"
    )


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ("file", 2, "that is no directory"),
        ("file/below", 1, "cannot make"),
        ("x" * 100, 2, "too long for a socket: choose a shorter --data"),
        ("a:b", 2, "overlayfs takes no colon"),
    ],
)
def test_a_bad_data_directory(short_tmp_path: Path, data: str, code: int, words: str) -> None:
    (short_tmp_path / "file").touch()
    refused = run_cafs("up", f"--data={short_tmp_path / data}", *ANYWHERE, code=code)
    assert words in refused.err
    assert refused.err.count("\n") == 1
    assert [path.name for path in short_tmp_path.iterdir()] == ["file"]


def test_a_service_that_cannot_start_ends_all_with_its_words_and_code(short_tmp_path: Path) -> None:
    data = short_tmp_path / "d"
    data.mkdir()
    wrong = "--set=manager_database=mysql://nowhere"
    refused = run_cafs("up", f"--data={data}", *ANYWHERE, *only("manager", "mountd"), wrong, code=2)
    assert refused.err.splitlines()[-1].startswith("cafs: manager: manager_database")
    (data / "peer").touch()
    refused = run_cafs("up", f"--data={data}", *ANYWHERE, *only("scheduler", "peer"), code=1)
    assert refused.err.splitlines()[-1].startswith("cafs: peer: cannot keep this host's id")


def test_what_is_not_installed_is_left_out(short_tmp_path: Path) -> None:
    installed = short_tmp_path / "other/cafs-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cafs\nVersion: 0\nProvides-Extra: manager\n"
        "Requires-Dist: pytest\nRequires-Dist: no-such-library<2,>=1; extra == 'manager'\n"
    )
    # What lies in the folder that it is started in is nobody's code.
    (short_tmp_path / "cafs").mkdir()
    (short_tmp_path / "cafs/__init__.py").write_text("raise SystemExit(7)\n")
    os.environ["PYTHONPATH"] = str(installed.parent)
    try:
        with running_up(
            short_tmp_path / "d", "--without=mountd", "--without=snapshotter", folder=short_tmp_path
        ) as up:
            told = up.ready()
            missing = "no-such-library is missing: pip install 'cafs[manager]'"
            assert told["left_out"]["manager"] == missing
            assert f"without manager: {missing}" in up.log
            assert set(up.pids()) == {"scheduler", "seed", "peer"}
    finally:
        del os.environ["PYTHONPATH"]
