"""Damaged and hostile indexes: refused with the place named, never a crash, never endless."""

from __future__ import annotations

import contextlib
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cafs.core.erofs import INODE, SLOT_BITS, Layout
from cafs.errors import IntegrityError, NotFoundError
from cafs.index.check import check_index
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from tests.support.hostile import HEADER, mutations, opens_and_passes, read_everything, torture_index

GOOD, DATA = torture_index()


@settings(max_examples=400)
@given(st.lists(mutations(len(GOOD)), min_size=1, max_size=4))
def test_damage_anywhere_gives_integrity_errors_only(damage: list[Callable[[bytearray], None]]) -> None:
    content = bytearray(GOOD)
    for change in damage:
        change(content)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        path.write_bytes(content)
        began = time.monotonic()
        passed = opens_and_passes(path)
        with contextlib.nullcontext() if passed else contextlib.suppress(IntegrityError):
            read_everything(path)
        assert time.monotonic() - began < 10


@given(st.integers(0, len(GOOD) - 1))
@example(0)
@example(4095)
@example(4096)
def test_a_truncated_index_does_not_open(length: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        path.write_bytes(GOOD[:length])
        with pytest.raises(IntegrityError):
            LayerIndex.open(path)


def test_a_missing_index_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing-here"):
        LayerIndex.open(tmp_path / "nothing-here")


class Surgeon:
    """Changes fields of the good index by name."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(GOOD)
        self.path = path
        self.content = bytearray(GOOD)
        self.index = LayerIndex.open(path)
        self.reader = ErofsReader(self.index.metadata, self.index.virtual_bytes)

    def nid(self, path: str) -> int:
        nid = self.reader.root_nid
        for name in path.encode().split(b"/") if path else ():
            found = self.reader.lookup(nid, name)
            assert found is not None
            nid = found
        return nid

    def offset(self, path: str) -> int:
        return HEADER + (self.nid(path) << SLOT_BITS)

    def set(self, at: int, form: str, *values: int) -> None:
        struct.pack_into("<" + form, self.content, at, *values)

    def data(self, path: str) -> int:
        """Where a directory's or symlink's (inline) data starts in the file."""
        inode = self.reader.inode(self.nid(path))
        assert inode.layout == Layout.FLAT_INLINE
        return HEADER + inode.data_start

    def refused(self) -> str:
        self.index.close()
        self.path.write_bytes(self.content)
        with pytest.raises(IntegrityError) as caught, LayerIndex.open(self.path) as index:
            check_index(index)
        return str(caught.value)


@pytest.fixture
def surgeon(tmp_path: Path) -> Surgeon:
    return Surgeon(tmp_path / "index")


def test_the_good_index_passes(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(GOOD)
    assert opens_and_passes(tmp_path / "index")
    read_everything(tmp_path / "index")


_SIZE, _U, _NLINK, _ICOUNT, _MODE, _NSEC = 8, 16, 44, 2, 4, 40


@pytest.mark.parametrize(
    ("path", "field", "form", "value", "message"),
    [
        ("a/plain", _U, "I", 0, "outside the data region"),
        ("a/plain", _U, "I", 0xFFFFFFF0, "outside the data region"),
        ("a/plain", _SIZE, "Q", 1 << 40, "outside the data region"),
        ("a/plain", _SIZE, "Q", (1 << 64) - 1, "absurd size"),
        ("a/plain", _NLINK, "I", 3, "link count"),
        ("a/plain", 0, "H", 3, "unknown format"),
        ("a/plain", 0, "H", 1 | 1 << 4, "unknown format"),
        ("a/plain", _MODE, "H", 0o020644, "type is not its inode's"),
        ("a/plain", _MODE, "H", 0o000644, "type is not its inode's"),
        ("a/plain", _NSEC, "I", 1_000_000_000, "nanoseconds"),
        ("a/plain", 6, "H", 1, "reserved"),
        ("a/plain", _ICOUNT, "H", 0xFFFF, "does not fit"),
        ("a/tiny", _SIZE, "Q", 4095, "crosses a block"),
        ("a/sparse", _U, "I", 32, "chunk format"),
        ("a/sparse", _SIZE, "Q", 1 << 50, "does not fit"),
        ("a/xattr", 64, "I", 1, "shared or filtered"),
        ("a/xattr", 64 + 12, "B", 255, "damaged xattr"),
        ("a/xattr", 64 + 13, "B", 5, "damaged xattr"),
        ("long", _U, "I", 0, "outside the metadata region"),
        ("long", _SIZE, "Q", 4096, "impossible length"),
        ("link", _SIZE, "Q", 0, "impossible length"),
        ("fifo", _U, "I", 1, "no device"),
        ("deep", _NLINK, "I", 2, "link count"),
        ("deep", _SIZE, "Q", 1 << 40, "impossible size"),
        ("many", _U, "I", 1 << 20, "outside the metadata region"),
        ("many", _U, "I", 1, "overlap"),
    ],
)
def test_a_wrong_inode_is_named(
    surgeon: Surgeon, path: str, field: int, form: str, value: int, message: str
) -> None:
    surgeon.set(surgeon.offset(path) + field, form, value)
    said = surgeon.refused()
    assert message in said
    assert f"inode {surgeon_nid(path)}" in said or "type" in said or "overlap" in said


def surgeon_nid(path: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        return Surgeon(Path(directory) / "index").nid(path)


def test_a_directory_in_itself_is_refused(surgeon: Surgeon) -> None:
    """deep/er -> deep/er/est points back at deep: a loop."""
    entry = surgeon.data("deep/er") + 2 * 12
    surgeon.set(entry, "Q", surgeon.nid("deep"))
    assert "another directory has too" in surgeon.refused()


def test_a_parent_that_is_not_the_parent_is_refused(surgeon: Surgeon) -> None:
    surgeon.set(surgeon.data("deep/er") + 12, "Q", surgeon.reader.root_nid)
    assert "'..'" in surgeon.refused()


@pytest.mark.parametrize(
    ("letter", "message"), [(b"/", "'/' or a NUL"), (b"\0", "'/' or a NUL"), (b"\xff", "order")]
)
def test_a_name_that_cannot_be_is_refused(surgeon: Surgeon, letter: bytes, message: str) -> None:
    names = surgeon.content.index(b"...emptyplainsparse")
    surgeon.content[names + 3 : names + 4] = letter
    assert message in surgeon.refused()


def test_a_name_twice_is_refused(surgeon: Surgeon) -> None:
    last = surgeon.content.rindex(b"%030d" % 249)
    surgeon.content[last : last + 30] = b"%030d" % 248
    assert "twice" in surgeon.refused()


def test_an_entry_of_the_wrong_type_or_place_is_refused(surgeon: Surgeon) -> None:
    surgeon.set(surgeon.data("a") + 3 * 12 + 10, "B", 7)
    assert "type" in surgeon.refused()
    surgeon = Surgeon(surgeon.path)
    surgeon.set(surgeon.data("a") + 3 * 12, "Q", 1 << 40)
    assert "outside the metadata region" in surgeon.refused()


def test_two_directories_that_share_their_blocks_are_refused(surgeon: Surgeon) -> None:
    """Otherwise a small file could claim directories of any total size."""
    large, victim = surgeon.offset("many"), surgeon.offset("deep")
    surgeon.content[victim : victim + INODE.size] = surgeon.content[large : large + INODE.size]
    assert "overlap" in surgeon.refused()


@pytest.mark.parametrize(
    ("row", "field", "form", "value", "message"),
    [
        (1, 0, "Q", 0, "ends before it starts"),
        (4, 0, "Q", 1 << 60, "table ends at"),
        (0, 40, "Q", (1 << 64) - 1, "outside its blob"),
        (0, 40, "Q", 1 << 20, "outside its blob"),
        (0, 48, "I", 0, "another size"),
        (0, 48, "I", 4999, "another size"),
        (0, 52, "I", 1, "not in the blob table"),
        (0, 56, "B", 2, "codec"),
        (0, 60, "B", 1, "reserved"),
        (0, 40, "Q", 100, "overlapping frames"),
    ],
)
def test_a_wrong_chunk_row_is_named(
    surgeon: Surgeon, row: int, field: int, form: str, value: int, message: str
) -> None:
    surgeon.set(surgeon.index.header.chunk_table_offset + 64 * row + field, form, value)
    said = surgeon.refused()
    assert message in said
    assert f"row {row}" in said or "rows" in said or "table ends" in said or "ends before" in said


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (16, "Q", 4097),
        (16, "Q", 1 << 63),
        (24, "Q", (1 << 64) - 4096),
        (32, "Q", 0),
        (40, "Q", 1 << 58),
        (48, "Q", 0),
    ],
)
def test_a_header_that_overflows_does_not_open(surgeon: Surgeon, offset: int, form: str, value: int) -> None:
    surgeon.set(offset, form, value)
    surgeon.refused()


def test_a_superblock_with_unknown_features_is_refused(surgeon: Surgeon) -> None:
    surgeon.set(HEADER + 1024 + 80, "I", 4 | 8)
    assert "superblock" in surgeon.refused()
