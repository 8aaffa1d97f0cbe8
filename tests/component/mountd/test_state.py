"""The files of a mount server, and that none is left of a session that ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cafs.core.digest import sha256_digest
from cafs.core.settings import Settings
from cafs.errors import StateError
from cafs.node.mount_state import write_json, write_pid
from cafs.node.mountd.state import LayerRecord, MountdRequest, RunDirectory


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


def request(cache_dir: Path, run_dir: Path) -> MountdRequest:
    return MountdRequest(prefetch="none", settings=Settings(cache_dir=cache_dir, run_dir=run_dir))


def session_with_a_layer(directory: RunDirectory, cache_dir: Path) -> LayerRecord:
    directory.path.mkdir()
    directory.write_request(request(cache_dir, directory.path))
    directory.begin_session(can_resend=True)
    cache_dir.mkdir(exist_ok=True)
    index = cache_dir / "index"
    index.write_text("an index")
    digest = sha256_digest(b"")
    record = LayerRecord(name="ab" * 32, node=100, layer=digest, diff_id=digest, images=())
    directory.write_layer(record, index)
    return record


def test_a_session_that_goes_on_with_another_cache_keeps_its_indexes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    record = session_with_a_layer(directory, tmp_path / "old")
    directory.write_request(request(tmp_path / "new", directory.path))
    assert directory.read_layers() == [record]
    assert directory.index_of(record.name).is_relative_to(tmp_path / "new")
    assert directory.index_of(record.name).read_text() == "an index"
    assert not list((tmp_path / "old" / "mounted").iterdir())
    directory.forget_session()
    assert not list((tmp_path / "new" / "mounted").iterdir())


def test_a_cache_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    record = session_with_a_layer(directory, tmp_path / "old")
    (tmp_path / "new").write_text("no directory")
    with pytest.raises(OSError, match="new"):
        directory.write_request(request(tmp_path / "new", directory.path))
    assert directory.index_of(record.name).read_text() == "an index"


def test_a_server_of_another_version_goes_on_with_the_session(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    record = session_with_a_layer(directory, tmp_path / "cache")
    written = directory.path / "mountd.json"
    document = json.loads(written.read_text())
    del document["settings"]["trusted_keys"], document["settings"]["retries"]  # it knew less
    document["settings"]["of_yesterday"] = 1  # and something else
    written.write_text(json.dumps(document))
    told = directory.read_request().settings
    assert (told.trusted_keys, told.retries, told.cache_dir) == (
        (),
        request(tmp_path, tmp_path).settings.retries,
        tmp_path / "cache",
    )
    directory.write_request(request(tmp_path / "cache", directory.path))
    assert directory.read_layers() == [record]


def test_settings_without_a_cache_are_damaged(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    session_with_a_layer(directory, tmp_path / "cache")
    written = directory.path / "mountd.json"
    document = json.loads(written.read_text())
    del document["settings"]["cache_dir"]
    written.write_text(json.dumps(document))
    with pytest.raises(StateError, match="cache_dir"):
        directory.read_request()
