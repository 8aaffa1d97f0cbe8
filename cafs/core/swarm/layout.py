"""How a content is cut into pieces, and which of them somebody has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cafs.errors import ProtocolError

MIN_PIECE_BYTES = 1 << 20
MAX_PIECE_BYTES = 16 << 20
CHEAP_PIECE_BYTES = 4 << 20
"""Up to here larger pieces are had for less: what each piece costs, whatever its size, is more than what its
bytes cost, and there are still so many that hosts have something for each other."""
ENOUGH_PIECES, FEW_PIECES = 256, 1024
"""Pieces grow with the content so that there are no more: of cheap ones, and of those that are larger."""
MAX_PIECES = 1 << 20
"""16 TiB: bounds what somebody else's bitmap can make us allocate."""
MAX_CONTENT_BYTES = MAX_PIECES * MAX_PIECE_BYTES


def piece_bytes_for(content_bytes: int | None) -> int:
    """Size of the pieces of a content; of unknown length, too (None)."""
    size = MIN_PIECE_BYTES
    while content_bytes is not None and size < MAX_PIECE_BYTES:
        most = ENOUGH_PIECES if size < CHEAP_PIECE_BYTES else FEW_PIECES
        if size * most >= content_bytes:
            break
        size *= 2
    return size


@dataclass(frozen=True, slots=True)
class Layout:
    """The pieces of one content."""

    content_bytes: int | None
    """None: not known yet. Then there are as many pieces as come."""
    piece_bytes: int

    @property
    def count(self) -> int | None:
        """How many pieces there are."""
        return None if self.content_bytes is None else -(-self.content_bytes // self.piece_bytes)

    def first_byte(self, number: int) -> int:
        return number * self.piece_bytes

    def size(self, number: int) -> int:
        """Bytes of one piece; the whole size while the end is not known."""
        if self.content_bytes is None:
            return self.piece_bytes
        return max(0, min(self.piece_bytes, self.content_bytes - number * self.piece_bytes))

    def holding(self, first_byte: int, last_byte: int) -> range:
        """The pieces that the bytes [first, last] lie in."""
        if last_byte < first_byte:
            return range(0)
        return range(first_byte // self.piece_bytes, last_byte // self.piece_bytes + 1)


def parse_layout(content_bytes: int, piece_bytes: int) -> Layout:
    """What somebody else says of a content; -1 bytes: its length is not known.

    Raises:
        ProtocolError: no content is like that.
    """
    length = None if content_bytes == -1 else content_bytes
    sizes = [MIN_PIECE_BYTES << n for n in range(5)]
    if piece_bytes not in sizes or not (length is None or 0 <= length <= MAX_CONTENT_BYTES):
        raise ProtocolError(f"a content of {content_bytes} bytes in pieces of {piece_bytes} cannot be")
    layout = Layout(length, piece_bytes)
    if (layout.count or 0) > MAX_PIECES:
        raise ProtocolError(f"a content of {layout.count} pieces is too much")
    return layout


@dataclass(slots=True)
class Bitmap:
    """A set of piece numbers; as bytes, piece n is bit n % 8 of byte n / 8."""

    bits: int = 0

    def __contains__(self, number: int) -> bool:
        return bool(self.bits >> number & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __iter__(self) -> Iterator[int]:
        for place, byte in enumerate(self.encode()):
            for bit in range(8):
                if byte >> bit & 1:
                    yield place * 8 + bit

    def add(self, number: int) -> None:
        self.bits |= 1 << number

    def discard(self, number: int) -> None:
        self.bits &= ~(1 << number)

    def is_full(self, count: int) -> bool:
        """Are all of ``count`` pieces in it?"""
        return self.bits & (1 << count) - 1 == (1 << count) - 1

    def encode(self) -> bytes:
        return self.bits.to_bytes((self.bits.bit_length() + 7) // 8, "little")

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Bitmap:
        found = set(numbers)
        data = bytearray(max(found, default=-1) // 8 + 1)
        for number in found:  # one by one each would copy all of it
            data[number // 8] |= 1 << number % 8
        return cls(int.from_bytes(data, "little"))

    @classmethod
    def full(cls, count: int) -> Bitmap:
        return cls((1 << count) - 1)

    @classmethod
    def decode(cls, data: bytes, count: int | None) -> Bitmap:
        """Read what somebody else wrote.

        Raises:
            ProtocolError: it is larger than ``count`` pieces need, or than any content.
        """
        bits = int.from_bytes(data[: MAX_PIECES // 8 + 1], "little")
        if len(data) > MAX_PIECES // 8 or (count is not None and bits >> count):
            raise ProtocolError("a bitmap has more pieces than there are")
        return cls(bits)
