"""Where people mount: by symlinks, with odd names, beside others; where EROFS may not be mounted."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cafs.fuse.syscalls import MountFlag, mount, unmount
from cafs.node.mount_state import MountDirectory
from tests.support.mounts import unmounted_after
from tests.support.observe import observe
from tests.support.peers import wait_for
from tests.support.place import Place, mounted
from tests.support.program import cafs_command, run_cafs

DRIVERS = ("erofs", "fuse")


@pytest.fixture
def place(short_tmp_path: Path) -> Iterator[Place]:
    with unmounted_after(short_tmp_path):
        yield Place(short_tmp_path)


@pytest.mark.parametrize(
    ("name", "driver"),
    [("link", "erofs"), ("link/../tree", "fuse"), ("below/tree", "erofs"), ("wide\ntree", "fuse")],
)
def test_what_is_mounted_by_a_name_is_unmounted_by_it(place: Place, driver: str, name: str) -> None:
    (place.path / "link").symlink_to("tree")
    (place.path / "below").symlink_to(".")
    (place.path / "wide\ntree").symlink_to(place.target)
    place.cafs("mount", place.source, place.path / name, "--driver", driver, "--trusted")
    assert observe(place.target) == place.image.expected()
    assert "no read has failed" in place.cafs("explain", place.path / name)
    place.cafs("umount", place.path / name)
    place.assert_clean()


def test_a_mount_point_that_is_no_text_is_told(place: Place) -> None:
    """Where standard output takes nothing but UTF-8, as in most people's locale."""
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    target = place.path / os.fsdecode(b"b\xfccher")
    target.mkdir()
    told = run_cafs("--json", "mount", place.source, target, *place.flags, env=strict)
    assert told.json["directory"] == str(target)
    assert f"{place.path}/b\\xfccher (" in run_cafs("mount", *place.flags, env=strict).out
    assert run_cafs("--json", "umount", target, *place.flags, env=strict).json["directory"] == str(target)
    place.assert_clean()


@pytest.mark.parametrize("driver", DRIVERS)
def test_somebody_elses_mount_with_an_odd_name_is_in_nobodys_way(place: Place, driver: str) -> None:
    """Anybody may make one; the kernel lists it with all that may end a line elsewhere as it is."""
    odd = place.path / "a\x0c\x0cb\r\x1cc"
    odd.mkdir()
    mount("tmpfs", odd, "tmpfs", MountFlag.NODEV, "")
    try:
        target = odd / "tree"
        target.mkdir()
        for point in (place.target, target):
            place.cafs("mount", place.source, point, "--driver", driver)
            assert "not mounted" not in place.cafs("mount")
            assert "no read has failed" in place.cafs("explain", point)
            place.cafs("umount", point)
        assert "open files" in run_cafs("doctor", *place.flags).out
    finally:
        unmount(odd)
    place.assert_clean()


def test_what_was_unmounted_without_cafs_is_told(place: Place) -> None:
    """Below an EROFS that is gone its server goes on."""
    place.cafs("mount", place.source, place.target, "--driver", "erofs")
    assert place.cafs("mount").endswith(f"{place.target} (erofs)\n")
    subprocess.run(["umount", place.target], check=True)
    assert "(erofs, not mounted: " in place.cafs("mount")
    told = place.cafs("mount", place.source, place.target, code=1)
    assert f"cafs umount {place.target}" in told
    place.cafs("umount", place.target)
    place.assert_clean()


def test_what_somebody_else_mounted_is_told(place: Place) -> None:
    place.cafs("mount", place.source, place.target)
    told = run_cafs("umount", place.target, f"--set=run_dir={place.path}/another", code=2).err
    assert "not mounted by this user, or with another run_dir" in told
    assert place.target.is_mount()
    place.cafs("umount", place.target)
    place.assert_clean()


def test_where_root_may_not_mount_erofs_the_other_driver_is_taken(place: Place) -> None:
    """As in a rootless container: in a user namespace one may mount FUSE, and EROFS not."""
    script = """
        mount=$1 umount=$2 tree=$3
        eval "$mount --driver erofs" && exit 10
        eval "$mount" || exit 11
        find "$tree" -mindepth 1 -maxdepth 1 -printf '%P\\0' || exit 12
        eval "$umount"
    """
    commands = [
        shlex.join([*cafs_command(name, *arguments), *place.flags])
        for name, *arguments in (("mount", place.source, place.target), ("umount", place.target))
    ]
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *commands]
    done = subprocess.run([*inside, place.target], capture_output=True, check=False)
    told = done.stderr.decode()
    assert done.returncode == 0, told
    assert "use --driver fuse" in told
    assert "(driver fuse)" in told
    expected = {name for name in place.image.expected() if name and b"/" not in name}
    assert {name for name in done.stdout.split(b"\0") if name} == expected
    place.assert_clean()


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_another_version_wrote_of_a_mount_is_read(place: Place, driver: str) -> None:
    """A mount outlives an upgrade and a step back: what only the other version knew is nothing to us."""
    with mounted(place, "--driver", driver, "--trusted") as tree:
        for name in ("mount.json", "image.json"):
            path = place.state(name)
            path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
        place.kill("server")
        assert observe(tree) == place.image.expected()
        assert str(tree) in place.cafs("mount")


@pytest.mark.parametrize("damage", [b"", b'{"settings": 5}'])
def test_state_that_a_power_cut_left_is_in_nobodys_way(place: Place, damage: bytes) -> None:
    """Where run_dir lies on a disk, files may be there and empty."""
    left = MountDirectory.of(place.run_dir, place.target).path
    for command in (("mount", place.source), ("umount",)):
        left.mkdir(parents=True)
        (left / "lock").touch()
        (left / "mount.json").write_bytes(damage)
        assert "is damaged" in run_cafs("mount", *place.flags, warns="is damaged").err
        run_cafs(*command, place.target, *place.flags, warns="is damaged")
        if command[0] == "mount":
            assert place.cafs("mount").endswith(f"{place.target} (erofs)\n")
            place.cafs("umount", place.target)
    place.assert_clean()


def test_directories_that_cannot_be_written_are_told(place: Place) -> None:
    """Root may write everywhere but in /proc."""
    told = run_cafs("mount", place.source, place.target, *place.flags, "--set=cache_dir=/proc/cafs", code=1)
    assert "(cache_dir has to be writable" in told.err
    told = run_cafs("mount", place.source, place.target, *place.flags, "--set=run_dir=/proc/cafs", code=1)
    assert "(run_dir has to be writable" in told.err
    place.assert_clean()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_supervisor_that_is_told_to_end_unmounts(place: Place, driver: str) -> None:
    """Also from those who use it: they keep what they have open."""
    place.cafs("mount", place.source, place.target, "--driver", driver, "--trusted")
    path = max(place.stored_files(), key=lambda path: path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        os.kill(int(place.state("supervisor.pid").read_text()), signal.SIGTERM)
        wait_for(lambda: not place.target.is_mount(), "the tree to go")
        assert file.read() == place.image.contents()[place.name(path)]
    wait_for(lambda: not list(place.run_dir.glob("*")), "its processes to end")
    place.assert_clean()
