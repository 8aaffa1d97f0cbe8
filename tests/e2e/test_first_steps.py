"""What a new user does after reading the README, in a directory of their own, with relative paths."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.support.program import Outcome, run_cafs

DRIVERS = ["erofs", "fuse"]


@pytest.fixture
def here(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's directory, with a tree in it."""
    monkeypatch.chdir(short_tmp_path)
    tree = short_tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("first\n")
    (tree / "large").write_bytes(
        b"".join(hashlib.sha256(bytes([i, j])).digest() for i in range(256) for j in range(256))
    )
    (tree / "link").symlink_to("etc/hostname")
    (short_tmp_path / "mnt").mkdir()
    return short_tmp_path


def cafs(here: Path, *arguments: str, code: int = 0) -> Outcome:
    """Run cafs with a cache of its own."""
    env = {"CAFS_CACHE_DIR": str(here / "cache"), "CAFS_RUN_DIR": str(here / "run")}
    return run_cafs(*arguments, code=code, env=env)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_directory_becomes_an_image_that_is_looked_into_and_mounted(here: Path, driver: str) -> None:
    image = "oci:./out:v1"
    cafs(here, "convert", "dir:./tree", image)
    assert "large" in cafs(here, "ls", image).out.split()
    assert cafs(here, "cat", image, "/etc/hostname").out == "first\n"
    assert "sound" in cafs(here, "check", image).out
    assert "dedup ratio" in cafs(here, "inspect", image).out

    cafs(here, "mount", "--driver", driver, "--record", "first.profile", image, "mnt")
    try:
        same = subprocess.run(["diff", "-r", "--no-dereference", "tree", "mnt"], check=False)
        assert same.returncode == 0
        assert Path("mnt/large").stat().st_size == 256 * 256 * 32
        assert "mnt" in cafs(here, "mount").out
        assert "no read has failed" in cafs(here, "explain", "mnt").out.lower()
    finally:
        cafs(here, "umount", "mnt")
    assert list(Path("mnt").iterdir()) == []

    cafs(here, "profile", "push", "first.profile", image)
    assert cafs(here, "cache", "--json").json
    cafs(here, "cache", "verify")


def test_a_second_version_shares_what_did_not_change(here: Path) -> None:
    cafs(here, "convert", "dir:./tree", "oci:./out:v1")
    (here / "tree/etc/hostname").write_text("second\n")
    cafs(here, "convert", "--chunk-dict", "oci:./out:v1", "dir:./tree", "oci:./out:v2")
    told = cafs(here, "diff", "oci:./out:v1", "oci:./out:v2", "--json").json
    assert told
    assert cafs(here, "cat", "oci:./out:v2", "etc/hostname").out == "second\n"


def test_an_image_that_was_not_converted_says_what_to_do(here: Path) -> None:
    (here / "plain").mkdir()
    (here / "plain/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (here / "plain/index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    outcome = cafs(here, "mount", "oci:plain:v1", "mnt", code=1)
    assert outcome.err.count("\n") == 1
    assert not (here / "run").exists() or not [*(here / "run").iterdir()]
