"""Where the frames of a zstd stream end (RFC 8878, section 3.1), told from their headers. Pure.

Used by ``cafs.convert.plain_stream``: zstandard's reader does not tell a stream that breaks off from one
that ends. What is wrong inside frames is the decoder's to find.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

MAGIC_BYTES = 4
_FRAME_HEAD_BYTES = MAGIC_BYTES + 1
"""The magic number and the byte that says which fields follow."""
_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
"""Behind a byte 0x50 to 0x5f: a frame without content, which some writers put first."""
_RLE = 1
"""The type of a block that stores one byte, whatever size it states."""


def is_zstd(head: bytes) -> bool:
    """Whether a stream that begins so is zstd."""
    return head.startswith(_MAGIC) or _is_skippable(head)


class ZstdFrames:
    """Follows the headers in a stream that passes by."""

    def __init__(self) -> None:
        self._headers = _headers()
        self._skip, self._wanted = next(self._headers)
        self._header = b""

    @property
    def are_whole(self) -> bool:
        """Whether what has passed ends where a frame does."""
        return self._wanted == _FRAME_HEAD_BYTES and not self._skip and not self._header

    def watch(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the pieces on."""
        for piece in pieces:
            self._follow(piece)
            yield piece

    def _follow(self, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            passed = min(self._skip, len(piece) - at)
            self._skip -= passed
            at += passed
            part = piece[at : at + self._wanted - len(self._header)]
            self._header += part
            at += len(part)
            if len(self._header) == self._wanted:
                self._skip, self._wanted = self._headers.send(self._header)
                self._header = b""


def _is_skippable(head: bytes) -> bool:
    return head[1:MAGIC_BYTES] == _SKIPPABLE_MAGIC and head[0] >> 4 == 5


def _headers() -> Generator[tuple[int, int], bytes, None]:
    """Takes each header; answers how many bytes to pass over then, and how long the next header is."""
    skip = 0
    while True:
        head = yield skip, _FRAME_HEAD_BYTES
        if _is_skippable(head):
            head += yield 0, 3
            skip = int.from_bytes(head[MAGIC_BYTES:], "little")
            continue
        descriptor = head[MAGIC_BYTES]
        is_single_segment = descriptor >> 5 & 1
        window_bytes, id_bytes = 1 - is_single_segment, (0, 1, 2, 4)[descriptor & 3]
        skip = window_bytes + id_bytes + (is_single_segment, 2, 4, 8)[descriptor >> 6]
        is_last = 0
        while not is_last:
            block = int.from_bytes((yield skip, 3), "little")
            is_last, kind, size = block & 1, block >> 1 & 3, block >> 3
            skip = 1 if kind == _RLE else size
        skip += 4 * (descriptor >> 2 & 1)  # its checksum
