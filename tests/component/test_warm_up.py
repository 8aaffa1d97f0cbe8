"""What a cold mount reads ahead of itself: the right files, and only when they are not in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cafs.store.chunk_store
from cafs.node.warm_up import files, is_cold, warm_up
from tests.support.peers import wait_for

LATE = Path(str(cafs.store.chunk_store.__cached__))
LOADED = """
import sys
before = set(sys.modules)
import cafs.cli.start, cafs.node.prefork, cafs.cli.main, cafs.cli.mount, cafs.node.mount, cafs.node.keeper
import cafs.node.first_answers, cafs.fuse.merged, cafs.node.mount_server
new = [sys.modules[name] for name in set(sys.modules) - before]
names = {getattr(module, "__cached__", None) or getattr(module, "__file__", None) for module in new}
print("\\n".join(name for name in names if name and name.endswith((".pyc", ".so"))))
"""


@pytest.fixture
def on_disk_only() -> None:
    """The file that is looked at is not in memory, where the filesystem can let go of it."""
    subprocess.run([sys.executable, "-c", "import cafs.store.chunk_store"], check=True)
    os.sync()
    with LATE.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def is_in_memory(path: Path) -> bool:
    """Its first page, by mincore(2), which does not read it."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(1)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 1, mmap.MAP_PRIVATE) as mapped:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(1), found) == 0
    return bool(found.raw[0] & 1)


def test_what_a_mount_loads_is_found() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True)
    loaded = {os.path.realpath(name) for name in done.stdout.split()}
    found = {os.path.realpath(name) for name in files()}
    missing = loaded - found
    assert len(loaded) > 200
    assert not [name for name in missing if "/cafs/" in name]
    assert len(missing) < len(loaded) // 10, missing
    there = [name for name in files() if Path(name).exists()]
    assert sum(Path(name).stat().st_size for name in there) < 40 << 20


@pytest.mark.usefixtures("on_disk_only")
def test_it_is_known_what_is_in_memory() -> None:
    expected = not is_in_memory(LATE)
    assert is_cold() == expected  # asking begins to read it
    LATE.read_bytes()
    assert is_in_memory(LATE)
    assert not is_cold()


@pytest.mark.usefixtures("on_disk_only")
def test_all_is_read() -> None:
    warm_up()
    wait_for(lambda: is_in_memory(LATE), "the file to be read")
    assert not is_cold()
