"""A start is recorded, its profile attached and followed; a read that fails is explained."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import wait_for
from tests.support.program import Outcome, run_cafs

FILES = 40
FILE_BYTES = 100_000
IMAGE = "oci:./out:v1"


class Home:
    """A converted image of forty files, and caches of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rng = random.Random(5)
        (path / "tree").mkdir()
        (path / "mnt").mkdir()
        for number in range(FILES):
            (path / f"tree/file{number:02}").write_bytes(rng.randbytes(FILE_BYTES))
        self.cafs("convert", "dir:./tree", IMAGE)

    def cafs(self, *arguments: str, code: int = 0, warns: str | None = None) -> Outcome:
        env = {"CAFS_CACHE_DIR": str(self.path / "cache"), "CAFS_RUN_DIR": str(self.path / "run")}
        return run_cafs(*arguments, code=code, env=env, warns=warns)

    @contextmanager
    def mounted(self, *options: str) -> Iterator[None]:
        self.cafs("mount", "--driver", "fuse", *options, IMAGE, "mnt")
        try:
            yield
        finally:
            self.cafs("umount", "mnt")

    def same(self, number: int) -> bool:
        name = f"file{number:02}"
        return (self.path / "mnt" / name).read_bytes() == (self.path / "tree" / name).read_bytes()

    def stats(self) -> dict[str, Any]:
        """The mount's counters; zeros while its first server, which counts nothing, has no successor yet."""
        found: dict[str, Any] = {"fetched_chunks": 0, "fetched_bytes": 0}
        for path in (self.path / "run").glob("*/stats.json"):
            found = json.loads(path.read_text())
        return found

    def forget_chunks(self) -> None:
        assert self.cafs("cache", "clear")


@pytest.fixture
def home(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(short_tmp_path)
    return Home(short_tmp_path)


def test_a_recorded_start_is_fetched_before_anybody_reads(home: Home) -> None:
    touched = [31, 7, 8, 22]
    with home.mounted("--prefetch", "none", "--record", "start.profile"):
        assert all(home.same(number) for number in touched)
    recorded = home.cafs("profile", "show", "start.profile", "--json").json
    assert 0 < recorded["chunks"] < FILES * 2
    home.cafs("profile", "push", "start.profile", IMAGE)
    assert home.cafs("profile", "show", IMAGE, "--json").json == recorded

    home.forget_chunks()
    with home.mounted("--prefetch", "profile"):
        wait_for(lambda: home.stats()["fetched_chunks"] >= recorded["chunks"], "what was recorded")
        assert all(home.same(number) for number in touched)
        stats = home.stats()
    assert stats["fetched_by_priority"]["demand"] == 0
    assert stats["fetched_bytes"] < 0.5 * FILES * FILE_BYTES


def test_a_profile_of_another_image_is_refused(home: Home) -> None:
    """It would be the newest, and the image's own would no longer be followed."""
    with home.mounted("--prefetch", "none", "--record", "start.profile"):
        assert home.same(3)
    (home.path / "another").mkdir()
    (home.path / "another/file").write_bytes(random.Random(6).randbytes(FILE_BYTES))
    home.cafs("convert", "dir:./another", "oci:./another-image:v1")
    told = home.cafs("profile", "push", "start.profile", "oci:./another-image:v1", code=2).err
    assert "of another image" in told
    home.cafs("profile", "show", "oci:./another-image:v1", code=1)


def test_everything_is_fetched_when_asked_for(home: Home) -> None:
    with home.mounted("--prefetch", "all"):
        wait_for(lambda: home.stats()["fetched_bytes"] >= FILES * FILE_BYTES, "all of it")
        assert all(home.same(number) for number in range(FILES))
    assert home.cafs("cache", "--json").json["chunks"] >= FILES / 2


def test_a_damaged_chunk_is_one_failed_file_and_is_explained(home: Home) -> None:
    largest = max((home.path / "out/blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.unlink()
    largest.write_bytes(content)
    with home.mounted("--prefetch", "none"):
        failed, errors = [], set()
        for number in range(FILES):
            try:
                assert home.same(number)
            except OSError as e:
                errors.add(e.errno)
                failed.append(number)
        assert 1 <= len(failed) < FILES // 2
        assert errors == {errno.EIO}
        told = home.cafs("explain", "mnt").out
        for number in failed:
            assert f"/file{number:02}" in told
        assert "does not match its digest" in told or "not valid zstd" in told
        assert "oci:" in told
        whole = next(number for number in range(FILES) if number not in failed)
        assert "no read has failed" in home.cafs("explain", f"mnt/file{whole:02}").out
        assert home.cafs("explain", f"mnt/file{failed[0]:02}", "--json").json
