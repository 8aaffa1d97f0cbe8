"""The files of a mount server, and that none is left of a session that ended."""

from __future__ import annotations

import os
from pathlib import Path

from cafs.core.settings import Settings
from cafs.node.mount_state import write_json, write_pid
from cafs.node.mountd.state import MountdRequest, RunDirectory


def test_nothing_is_left_of_a_session_whose_server_was_killed_while_it_wrote(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    lock = directory.try_lock()
    assert lock is not None
    os.close(lock)
    settings = Settings(cache_dir=tmp_path / "c", run_dir=tmp_path / "run")
    directory.write_request(MountdRequest(prefetch="none", settings=settings))
    before = {path.name for path in directory.path.iterdir()}
    directory.begin_session(can_resend=True)
    write_json(directory.stats, {"reads": 1})
    write_pid(directory.server_pid, 7)
    for path in (directory.stats, directory.server_pid):
        path.with_suffix(".new").write_text("{")
    directory.forget_session()
    assert {path.name for path in directory.path.iterdir()} == before
