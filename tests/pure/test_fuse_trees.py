"""The trees that FUSE shows, without a kernel: damage is an error of ours, a new server knows every node."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import CafsError, DeadlineError, IntegrityError, NotFoundError, RemoteError
from cafs.fuse import abi, protocol, replies
from cafs.fuse.answers import NoSuchNodeError, answer, errno_of
from cafs.fuse.flat import FIRST_LAYER_NODE, LAYERS_NODE, FlatTree
from cafs.fuse.holdings import Holdings
from cafs.fuse.merged import MergedFileTree, MergedLayer
from cafs.fuse.merged_image import LayerData, MergedImage
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.supervisor import LONGEST_PAUSE_S, PROMPT_RESTARTS, pause_before_restart
from cafs.index.header import HEADER_BYTES, parse_header
from tests.support.random_layers import RandomImage


class Image:
    """A virtual image of zeros."""

    about = "layer=test"

    def __init__(self, virtual_bytes: int) -> None:
        self.virtual_bytes = virtual_bytes

    def try_read(self, offset: int, size: int) -> Sequence[bytes] | None:
        return [bytes(max(0, min(size, self.virtual_bytes - offset)))]

    async def read(self, offset: int, size: int) -> Sequence[bytes]:
        raise AssertionError("everything is in memory")


class MemoryIndex(NamedTuple):
    """What the tree uses of a ``LayerIndex``."""

    metadata: memoryview
    virtual_bytes: int
    header: object


@cache
def indexes() -> tuple[bytes, ...]:
    files = []
    for layer in RandomImage(2, 3, 60).layer_list:
        file = io.BytesIO()
        layer.write_to(file, 0)
        files.append(file.getvalue())
    return tuple(files)


def tree_of(files: Sequence[bytes]) -> MergedFileTree:
    layers = []
    for content in files:
        header = parse_header(content[:HEADER_BYTES], len(content))
        metadata = memoryview(content)[HEADER_BYTES : HEADER_BYTES + header.metadata_bytes]
        index = MemoryIndex(metadata, header.virtual_bytes, header)
        layers.append(MergedLayer(index, Image(header.virtual_bytes)))  # type: ignore[arg-type]  # stands for its index
    return MergedFileTree(layers)


def walk(tree: MergedFileTree, limit: int = 5000) -> dict[int, bytes]:
    """Ask everything of every node; (node, listing) of the directories."""
    listings: dict[int, bytes] = {}
    pending = [abi.ROOT_ID]
    seen = 0
    while pending and seen < limit:
        node = pending.pop()
        seen += 1
        mode = abi.ATTR.unpack(tree.attributes(node))[9]
        tree.xattr_names(node)
        match mode & 0o170000:
            case 0o040000 if node not in listings:
                listings[node] = tree.listing(node).records
                pending += children(listings[node])
            case 0o120000:
                tree.symlink_target(node)
            case 0o100000:
                for offset in (0, 1, 5000, 1 << 40):
                    tree.try_read(node, offset, 1 << 17)
    return listings


def children(records: bytes) -> list[int]:
    found, at = [], 0
    while at < len(records):
        node = abi.ENTRY_HEAD.unpack_from(records, at)[0]
        length = abi.DIRENT.unpack_from(records, at + 128)[2]
        if node:
            found.append(node)
        at += (152 + length + 7) & ~7
    return found


def test_a_new_server_answers_for_every_node_of_the_one_before() -> None:
    listings = walk(tree_of(indexes()))
    assert any(node >> 56 for node in listings), "no merged directory in this image"
    for node, records in listings.items():
        assert tree_of(indexes()).listing(node).records == records


def test_only_what_erofs_reads_bypasses_the_page_cache() -> None:
    opened = answer(FlatTree([("a", Image(5000))]), protocol.Open(1, FIRST_LAYER_NODE))
    assert opened is not None
    assert abi.OPEN_OUT.unpack(b"".join(opened)[16:]) == (0, abi.FOPEN_DIRECT_IO, 0)
    assert answer(tree_of(indexes()), protocol.Open(1, abi.ROOT_ID)) == (
        replies.encode_error(1, errno.ENOSYS),
    )


@given(st.data())
def test_damaged_metadata_is_an_error_of_ours(data: st.DataObject) -> None:
    files = list(indexes())
    number = data.draw(st.integers(0, len(files) - 1))
    damaged = bytearray(files[number])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(
            st.integers(HEADER_BYTES + 1024, HEADER_BYTES + 12_000).filter(lambda at: at < len(damaged))
        )
        damaged[at] = data.draw(st.integers(0, 255))
    files[number] = bytes(damaged)
    with contextlib.suppress(CafsError):
        walk(tree_of(files), limit=400)


@given(st.integers(0, 2**64 - 1))
def test_no_node_id_is_more_than_an_error(node: int) -> None:
    tree = tree_of(indexes())
    for request in (
        protocol.GetAttr(1, node),
        protocol.ReadDir(1, node, 0, 4096, plus=True),
        protocol.Read(1, node, 0, 4096, 0),
        protocol.ReadLink(1, node),
        protocol.Lookup(1, node, b"a"),
        protocol.Open(1, node),
        protocol.ListXattr(1, node, 0),
    ):
        for any_tree in (tree, FlatTree([("x", Image(4096))])):
            with contextlib.suppress(CafsError):
                answer(any_tree, request)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (DeadlineError("late"), errno.ETIMEDOUT),
        (RemoteError("away"), errno.EIO),
        (IntegrityError("rotten"), errno.EIO),
        (NotFoundError("a chunk that no source has"), errno.EIO),
        (NoSuchNodeError("node"), errno.ESTALE),
        (MemoryError(), errno.ENOMEM),
        (ValueError("what nobody thought of"), errno.EIO),
    ],
)
def test_each_failure_has_its_errno(failure: Exception, error: int) -> None:
    assert errno_of(failure) == error


def test_restarts_are_prompt_first_and_never_far_apart() -> None:
    pauses = [pause_before_restart(crashes) for crashes in range(1, 40)]
    assert pauses[:PROMPT_RESTARTS] == [0.0] * PROMPT_RESTARTS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_the_next_server_finds_what_was_unanswered() -> None:
    first = Outstanding()
    for unique in (10, 12, 14):
        first.add(unique)
    first.remove(12)
    first.buffer[:40] = abi.IN_HEADER.pack(40, 3, 16, 1, 0, 0, 0, 0, 0)
    second = Outstanding(first.descriptor)
    assert sorted(second.take_all()) == [10, 14, 16]
    assert Outstanding(first.descriptor).take_all() == []


def test_layers_come_and_go() -> None:
    released: list[int] = []
    tree = FlatTree(holdings=holdings(bytearray(64)), released=released.append)
    assert answer(tree, protocol.Lookup(1, LAYERS_NODE, b"x")) is not None
    tree.add(20, "x", Image(4096))
    tree.add(21, "y", Image(8192))
    for _ in range(2):
        entry = tree.lookup(LAYERS_NODE, b"x")
        assert entry is not None
        assert abi.ENTRY_HEAD.unpack_from(entry)[0] == 20
    tree.hide("x")
    absent = tree.lookup(LAYERS_NODE, b"x")
    assert absent is not None
    assert abi.ENTRY_HEAD.unpack_from(absent)[0] == 0
    assert tree.try_read(20, 0, 10) == [bytes(10)], "somebody may have it open"
    tree.forget([(20, 1), (21, 1)])
    assert (released, tree.is_held(20)) == ([], True)
    tree.forget([(20, 1)])
    assert (released, tree.is_held(20)) == ([20], False)
    tree.drop(20)
    with pytest.raises(NoSuchNodeError):
        tree.try_read(20, 0, 10)


def test_a_new_server_knows_what_the_kernel_holds_since_the_one_before() -> None:
    memory = bytearray(64)
    before = FlatTree(holdings=holdings(memory))
    before.add(20, "x", Image(4096))
    before.add(21, "y", Image(4096))
    before.lookup(LAYERS_NODE, b"x")
    before.lookup(LAYERS_NODE, b"x")
    released: list[int] = []
    tree = FlatTree(holdings=holdings(memory), released=released.append)
    tree.add(20, None, Image(4096))
    assert tree.listing(LAYERS_NODE).records == b""
    assert (tree.is_held(20), tree.is_held(21)) == (True, False)
    tree.forget([(20, 2), (21, 1)])
    assert released == [20]


def holdings(memory: bytearray) -> Holdings:
    return Holdings(memoryview(memory), FIRST_LAYER_NODE)


class Numbered(Image):
    """Bytes that say where they are; ``here`` says which of them are in memory."""

    def __init__(self, virtual_bytes: int, first: int, here: bool) -> None:
        super().__init__(virtual_bytes)
        self._bytes = bytes((first + number) % 251 for number in range(virtual_bytes))
        self._here = here

    def try_read(self, offset: int, size: int) -> Sequence[bytes] | None:
        return [self._bytes[offset : offset + size]] if self._here else None

    async def read(self, offset: int, size: int) -> Sequence[bytes]:
        await trio.lowlevel.checkpoint()
        middle = offset + size // 2
        return [self._bytes[offset:middle], self._bytes[middle : offset + size]]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 200), st.integers(1, 200))
def test_a_merged_image_is_its_metadata_and_the_data_of_its_layers(
    data: list[int], offset: int, size: int
) -> None:
    metadata = bytes(range(30))
    whole = metadata
    for here in (True, False):
        whole, parts = metadata, []
        for number, length in enumerate(data):
            layer = Numbered(7 + length, 50 * number, here)
            whole += layer._bytes[7:]
            parts.append(LayerData(layer, 7))
        image = MergedImage(memoryview(metadata), parts)
        assert image.virtual_bytes == len(whole)
        expected = whole[offset : offset + size]
        assert b"".join(trio.run(image.read, offset, size)) == expected
        tried = image.try_read(offset, size)
        only_metadata = offset + size <= len(metadata) or not any(data) or offset >= len(whole)
        assert (tried is not None) == (here or only_metadata)
        assert tried is None or b"".join(tried) == expected
