"""A directory as a source: everything stat says comes back, and the same tree gives the same layer."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cafs.convert.compress import ChunkWriter
from cafs.convert.directory import directory_feed
from cafs.convert.known_chunks import KnownChunks
from cafs.convert.layer_builder import LayerBuilder
from cafs.core.chunking import ChunkingOptions
from cafs.core.progress import SilentStep
from cafs.errors import StorageError, UsageError
from cafs.index.check import check_index
from cafs.index.layer_index import LayerIndex
from cafs.index.scratch import Scratch
from tests.support.tars import Made


class Heartbeat:
    """Counts the beats that the walk asks for, and calls back at one of them."""

    def __init__(self, at: int = -1, call: object = None) -> None:
        self.beats = 0
        self._at = at
        self._call = call

    def __iter__(self) -> Heartbeat:
        return self

    def __next__(self) -> bytes:
        self.beats += 1
        if self.beats == self._at:
            assert callable(self._call)
            self._call()
        return b""


def convert_directory(root: Path, work: Path, heartbeat: Heartbeat | None = None) -> Made:
    work.mkdir()
    scratch = Scratch()
    known, options = KnownChunks(scratch), ChunkingOptions()
    index, chunks = work / "index", work / "chunks"
    with ThreadPoolExecutor(2) as executor, index.open("wb") as to, chunks.open("wb") as blob:
        writer = ChunkWriter(blob, executor, known, options, scratch)
        try:
            builder = LayerBuilder(writer, known, options, scratch)
            diff_id = directory_feed(root, SilentStep())(builder, heartbeat or Heartbeat())
            builder.finish(to, diff_id, None, None)
        finally:
            writer.close()
    opened = LayerIndex.open(index)
    check_index(opened)
    return Made(opened, chunks.read_bytes(), index.read_bytes())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/large").write_bytes(os.urandom(300_000))
    (root / "d/small").write_bytes(b"small" * 50)
    (root / ".wh.kept").write_bytes(b"a name like any other")
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(b"no UTF-8")
    os.link(root / "d/large", root / "z")
    (root / "link").symlink_to("../outside")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        listener.bind("socket")
        os.chdir(here)
    with (root / "sparse").open("wb") as file:
        file.truncate(3_000_001)
        file.seek(1_500_000)
        file.write(b"x" * 5000)
    os.setxattr(root / "d/small", "user.note", b"\0binary")
    os.chown(root / "d/small", 4_000_000_000, 7)
    os.utime(root / "d/small", ns=(5, -1_234_567_891))
    return root


def test_everything_comes_back(tree: Path, tmp_path: Path) -> None:
    made = convert_directory(tree, tmp_path / "work")
    for folder, directories, files in os.walk(os.fsencode(tree)):
        for name in (*directories, *files):
            full = folder + b"/" + name
            path = os.path.relpath(full, os.fsencode(tree))
            found, inode = os.lstat(full), made.reader.inode(made.nid(path))
            meta = inode.meta
            assert (meta.mode, meta.uid, meta.gid) == (found.st_mode, found.st_uid, found.st_gid), path
            assert meta.mtime_ns == found.st_mtime_ns, path
            if stat.S_ISREG(found.st_mode):
                assert made.content(path) == Path(os.fsdecode(full)).read_bytes()
                assert inode.nlink == found.st_nlink
            if stat.S_ISLNK(found.st_mode):
                assert made.reader.symlink_target(made.nid(path)) == os.readlink(full)  # noqa: PTH115
            if stat.S_ISCHR(found.st_mode):
                assert meta.rdev == found.st_rdev
    assert made.reader.inode(made.nid(b"d/small")).meta.xattrs == ((b"user.note", b"\0binary"),)
    assert made.nid(b"z") == made.nid(b"d/large")
    assert made.index.header.data_bytes < 400_000, "holes were stored"


def test_a_copy_gives_the_same_layer(tree: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", tree, tmp_path / "copy"], check=True)
    one = convert_directory(tree, tmp_path / "one")
    two = convert_directory(tmp_path / "copy", tmp_path / "two")
    assert one.index_file == two.index_file
    assert one.blob == two.blob


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    path = root / "file"
    path.write_bytes(bytes(1000))
    # Beats: the root, the file, its first read. Then it is written to.
    with pytest.raises(StorageError, match="changed"):
        convert_directory(root, tmp_path / "grown", Heartbeat(3, lambda: path.write_bytes(b"y" * 5000)))
    with pytest.raises(StorageError, match=r"shrank|changed"):
        convert_directory(root, tmp_path / "shrunk", Heartbeat(3, lambda: path.write_bytes(b"")))


def test_a_link_as_the_root_means_the_directory_behind_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("tree")
    through = convert_directory(tmp_path / "link", tmp_path / "through")
    assert through.index_file == convert_directory(tree, tmp_path / "straight").index_file


def test_a_root_that_is_no_directory(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the root must be a directory"):
        convert_directory(tree / "d/small", tmp_path / "work")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing"):
        convert_directory(tmp_path / "nothing", tmp_path / "work")
