"""Idmapped mounts as containerd 2 makes them for pods with user namespaces.

1.6, which Debian has, cannot; so a test does with our mounts what 2 would do. Numbers of system calls and
structures: linux/mount.h, for x86-64; the steps: containerd, core/mount/mount_idmapped_linux.go.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cafs.fuse.syscalls import MountFlag, mount, unmount
from tests.support.patience import PATIENCE_S

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_IDMAP = 0x100000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: Any) -> int:
    done = _LIBC.syscall(number, *arguments)
    if done < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(done)


@contextmanager
def _user_namespace(first: int, count: int) -> Iterator[int]:
    """A descriptor of a user namespace that maps 0.. to FIRST.. of the host."""
    process = subprocess.Popen(["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()  # it is in its namespace
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text(f"0 {first} {count}")
        descriptor = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY)
    finally:
        process.stdin.close()
        process.wait(PATIENCE_S)
        process.stdout.close()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _idmapped(source: Path, target: Path, namespace: int) -> Iterator[None]:
    target.mkdir()
    tree = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE)
    try:
        attributes = struct.pack("<QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
        _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
    try:
        yield
    finally:
        unmount(target)
        target.rmdir()


@contextmanager
def mounted_idmapped(options: Sequence[str], target: Path, scratch: Path) -> Iterator[Path]:
    """The overlay that ``options`` describe, its lower layers mapped as its ``uidmap=`` says."""
    named = dict(option.split("=", 1) for option in options if "=" in option)
    inside, first, count = map(int, named.pop("uidmap").split(":"))
    assert (inside, named.pop("gidmap")) == (0, f"0:{first}:{count}")
    lowers = named.pop("lowerdir").split(":")
    target.mkdir()
    with ExitStack() as stack:
        namespace = stack.enter_context(_user_namespace(first, count))
        mapped = [scratch / str(number) for number in range(len(lowers))]
        for lower, place in zip(lowers, mapped, strict=True):
            stack.enter_context(_idmapped(Path(lower), place, namespace))
        data = [f"lowerdir={':'.join(map(str, mapped))}", *(f"{key}={value}" for key, value in named.items())]
        data += [option for option in options if "=" not in option and option not in {"rw", "ro"}]
        mount("overlay", target, "overlay", MountFlag(0), ",".join(data))
        try:
            yield target
        finally:
            unmount(target)
            target.rmdir()
