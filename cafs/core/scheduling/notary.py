"""What a content is: its layout, and the digests of its pieces. The first word on each counts for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cafs.core.scheduling.events import Meta

DIGEST_BYTES = 32
_LEAST_PIECE, _MOST_PIECE = 1 << 20, 16 << 20
_UNKNOWN = bytes(DIGEST_BYTES)


class Notary:
    """The truth about one task's content."""

    __slots__ = ("_digests", "_most", "_untold", "everything", "known", "meta", "pieces")

    def __init__(self, most_pieces: int) -> None:
        self._digests = bytearray()
        """Of piece n at n times 32; those not known are zeros."""
        self._untold = 0
        self._most = most_pieces
        self.known = 0
        """Bitmap of pieces with a digest."""
        self.meta: Meta | None = None
        self.pieces: int | None = None
        """How many there are; None: not known."""
        self.everything = 0
        """The bitmap of a whole copy; 0 as long as the length is not known, and for an empty content."""

    def learn(self, meta: Meta) -> bool:
        """Take the first word on the layout, or compare with it. False: it contradicts, or is nonsense."""
        if not self._makes_sense(meta):
            return False
        known = self.meta
        if known is None or (known.content_bytes < 0 <= meta.content_bytes):
            if not self._long_enough(meta) or (known is not None and known.piece_bytes != meta.piece_bytes):
                return False
            self._set(meta if known is None else replace(meta, headers=known.headers or meta.headers))
            return True
        same_length = meta.content_bytes in {-1, known.content_bytes}
        return same_length and meta.piece_bytes == known.piece_bytes

    def holds(self, number: int) -> bool:
        """Whether there can be such a piece."""
        return 0 <= number < (self._most if self.pieces is None else self.pieces)

    def proves(self, number: int, digest: bytes) -> bool:
        """Whether this is known to be the digest of that piece."""
        known = len(digest) == DIGEST_BYTES and digest != _UNKNOWN
        return known and self._digests.startswith(digest, number * DIGEST_BYTES)

    def record(self, number: int, digest: bytes) -> bool:
        """Keep the first digest of a piece. False: another one is known, or it is none."""
        if self.known >> number & 1:
            return self.digest_of(number) == digest
        if len(digest) != DIGEST_BYTES or digest == _UNKNOWN or not self.holds(number):
            return False
        at = number * DIGEST_BYTES
        if len(self._digests) < at + DIGEST_BYTES:
            self._digests.extend(bytes(at + DIGEST_BYTES - len(self._digests)))
        self._digests[at : at + DIGEST_BYTES] = digest
        self.known |= 1 << number
        self._untold |= 1 << number
        return True

    def record_all(self, have: int, digests: bytes) -> int:
        """Digests of the pieces in ``have``, in order; returns those pieces that were right or first."""
        if have == self.known and digests == self._digests:
            return have  # a whole copy, as most hosts hold it
        right = 0
        for place, number in enumerate(_bits(have)):
            digest = digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
            if self.record(number, digest):
                right |= 1 << number
        return right

    def digest_of(self, number: int) -> bytes | None:
        """What is known."""
        if not self.known >> number & 1:
            return None
        return bytes(self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES])

    @property
    def has_news(self) -> bool:
        """Digests were recorded that nobody was told of."""
        return bool(self._untold)

    def take_news(self) -> Iterator[tuple[int, bytes]]:
        """Runs of digests not told yet: number of the first, and all of them in one."""
        news, self._untold = self._untold, 0
        return self._runs(news)

    def all_runs(self) -> Iterator[tuple[int, bytes]]:
        """Everything known."""
        return self._runs(self.known)

    def _runs(self, bits: int) -> Iterator[tuple[int, bytes]]:
        while bits:
            first = (bits & -bits).bit_length() - 1
            ones = bits >> first
            count = (~ones & (ones + 1)).bit_length() - 1
            end = first + count
            yield first, bytes(self._digests[first * DIGEST_BYTES : end * DIGEST_BYTES])
            bits = bits >> end << end

    def _makes_sense(self, meta: Meta) -> bool:
        size = meta.piece_bytes
        if meta.content_bytes < -1 or not _LEAST_PIECE <= size <= _MOST_PIECE or size & (size - 1):
            return False
        return meta.content_bytes <= size * self._most

    def _long_enough(self, meta: Meta) -> bool:
        """For the pieces that were recorded while the length was not known."""
        return meta.content_bytes < 0 or self.known.bit_length() <= -(-meta.content_bytes // meta.piece_bytes)

    def _set(self, meta: Meta) -> None:
        self.meta = meta
        if meta.content_bytes >= 0:
            self.pieces = -(-meta.content_bytes // meta.piece_bytes)
            self.everything = (1 << self.pieces) - 1


def _bits(bitmap: int) -> Iterator[int]:
    while bitmap:
        lowest = bitmap & -bitmap
        yield lowest.bit_length() - 1
        bitmap ^= lowest
