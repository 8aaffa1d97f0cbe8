"""The doctor on this machine: what it says it tried was tried."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cafs.fuse.syscalls import MountFlag, mount, unmount
from cafs.node.machine_survey import filesystem_of
from tests.support.program import ROOT, run_cafs


def test_this_machine_is_well_enough(tmp_path: Path) -> None:
    document = run_cafs("doctor", "--json", env={"CAFS_CACHE_DIR": str(tmp_path / "new" / "cache")}).json
    findings = {finding["subject"]: finding for finding in document["findings"]}
    assert document["fail"] == 0
    assert findings["EROFS"]["what"] == "mounts images straight from files (tried)"
    assert findings["overlayfs"]["what"] == "stacks layers (tried)"
    assert findings["FUSE"]["what"] == "/dev/fuse can be opened, and mounted (tried)"
    assert findings["kernel"]["what"] == f"Linux {os.uname().release}"
    assert not (tmp_path / "new").exists(), "a doctor changes nothing"


def test_what_is_needed_and_missing_is_told_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run_cafs("doctor", "--set", f"cache_dir={tmp_path}/file/cache", code=1)
    assert "fail  cache_dir" in outcome.out
    assert 'mend: set another one in the configuration: cache_dir = "/var/lib/cafs"' in outcome.out
    assert outcome.out.endswith("1 needed and missing.\n")


def test_erofs_is_tried_as_a_mount_has_it(tmp_path: Path) -> None:
    """From a file on a tmpfs the kernel does not mount it, and a mount never asks for that."""
    mount("tmpfs", tmp_path, "tmpfs", MountFlag.NODEV, "")
    try:
        outcome = run_cafs("doctor", env={"TMPDIR": str(tmp_path)})
        assert list(tmp_path.iterdir()) == []
    finally:
        unmount(tmp_path)
    assert "EROFS              mounts images straight from files (tried)" in outcome.out


def test_root_that_may_not_mount_is_told_so() -> None:
    """As in a container without that capability: /dev/fuse can be opened all the same."""
    prefix = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    outcome = run_cafs("doctor", prefix=prefix, code=1)
    assert "fail  FUSE               it cannot be mounted: Operation not permitted" in outcome.out
    assert "--cap-add SYS_ADMIN" in outcome.out


def test_a_machine_without_room_for_a_temporary_file_is_looked_at_all_the_same() -> None:
    read_only = "for d in /tmp /var/tmp /usr/tmp; do [ ! -d $d ] || mount --rbind -o ro $d $d; done"
    script = f'{read_only}; cd /proc; unset TMPDIR; exec "$@"'
    outcome = run_cafs("doctor", prefix=["unshare", "--mount", "sh", "-ec", script, "sh"], code=1)
    assert "warn  EROFS              not tried: No usable temporary directory" in outcome.out
    assert "open files" in outcome.out


def test_only_the_chunk_store_counts_as_used(tmp_path: Path) -> None:
    """Below the same directory lie the roots of containers."""
    for folder in ("s/1/fs/var", "store/chunks"):
        (tmp_path / folder).mkdir(parents=True)
        with (tmp_path / folder / "data.mdb").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 150 << 20)
    findings = run_cafs("doctor", "--json", env={"CAFS_CACHE_DIR": str(tmp_path)}).json["findings"]
    (space,) = [finding["what"] for finding in findings if finding["subject"] == "disk space"]
    assert space.endswith("0.1 GiB used")


@pytest.mark.parametrize("place", ["/proc/cafs", "/sys/cafs"])
def test_a_directory_that_root_may_write_and_cannot_is_found(place: str) -> None:
    assert f"{place} cannot be written" in run_cafs("doctor", "--set", f"cache_dir={place}", code=1).out


def test_a_named_configuration_that_is_missing_is_a_mistake(tmp_path: Path) -> None:
    assert "nope.toml" in run_cafs("doctor", "--containerd-config", tmp_path / "nope.toml", code=2).err


def ask_as_root_and_as_nobody(cache_dir: Path) -> tuple[str, str]:
    # nobody may perhaps read neither this checkout nor Python's own modules: a first run as root loads them.
    script = (
        "import os, sys; from cafs.cli.main import run;"
        f"line = ['doctor', '--set', 'cache_dir={cache_dir}'];"
        "run(line); print('as nobody:'); os.setgid(65534); os.setuid(65534); sys.exit(run(line))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    as_root, _, as_nobody = done.stdout.partition("as nobody:")
    return as_root, as_nobody + done.stderr


def test_a_user_hears_of_the_fuse_driver() -> None:
    as_root, as_nobody = ask_as_root_and_as_nobody(Path("/tmp/cafs-of-nobody"))
    assert "not used: only root can mount it" in as_nobody
    assert "not used" not in as_root


def test_a_user_hears_of_a_directory_that_only_others_may_enter(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    _, as_nobody = ask_as_root_and_as_nobody(tmp_path / "closed" / "in" / "cache")
    assert "closed/in/cache cannot be written: Permission denied" in as_nobody
    assert "open files" in as_nobody, "all else is told too"


def test_filesystems_are_told_apart(tmp_path: Path) -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/sys")) == "sysfs"
    assert filesystem_of(tmp_path) in Path("/proc/filesystems").read_text()


def test_a_filesystem_is_told_also_where_its_place_has_an_odd_name(tmp_path: Path) -> None:
    place = tmp_path / "Bücher und\tmehr"
    place.mkdir()
    mount("ramfs", place, "ramfs", MountFlag.NODEV, "")
    try:
        assert filesystem_of(place / "cache") == "ramfs"
    finally:
        unmount(place)
