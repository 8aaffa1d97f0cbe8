"""``HashIndex`` and ``DigestTable`` against a dict, with hashes that collide."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cafs.convert.digest_table import DigestTable
from cafs.index.hash_index import HashIndex
from cafs.index.scratch import Scratch

SHORTS = st.sampled_from((0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)) | st.integers(0, 0xFFFFFFFF)


@settings(max_examples=50, deadline=None)
@given(st.lists(SHORTS, max_size=60), st.integers(0, 3000))
def test_every_key_finds_its_own_row(shorts: list[int], others: int) -> None:
    """Keys are (hash, number): those of one hash are told apart by their rows alone, also after growths."""
    index, keys = HashIndex(Scratch()), []

    def find(key: tuple[int, int]) -> int | None:
        return index.find(key[0], lambda row: keys[row] == key)

    for number, short in enumerate([*shorts, *(n * 0x9E3779B1 & 0xFFFFFFFF for n in range(others))]):
        assert find((short, number)) is None
        index.add(short, len(keys))
        keys.append((short, number))
    assert [find(key) for key in keys] == list(range(len(keys)))
    assert find((0, -1)) is None


def test_digests_that_begin_alike_are_different() -> None:
    table = DigestTable(Scratch())
    digests = [b"%04d" % (n % 300) + n.to_bytes(28, "little") for n in range(2000)]
    for number, digest in enumerate(digests):
        assert table.find(digest) is None
        table.add(digest, number << 33)
    assert [table.find(digest) for digest in digests] == [n << 33 for n in range(len(digests))]
    assert [table.digest_at(row) for row in range(len(table))] == digests
