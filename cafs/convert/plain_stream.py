"""A layer's plain bytes as a forward-only stream: pieces in, decompressed, hashed, read in any size.

``HashedPieces`` may run on another thread than the ``PlainStream`` that reads from it (``ReadAhead``).
The kind of compression is told by the first bytes, as every unpacker does. Everything is bounded:
whatever a frame inflates to is handed on in small pieces and never held, and a stream that inflates
beyond all reason is refused (``MAX_RATIO``).
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections.abc import Iterator
from typing import IO, Protocol, Self, cast

import zstandard
from isal import isal_zlib

from cafs.convert.zstd_frames import MAGIC_BYTES, ZstdFrames, is_zstd
from cafs.errors import IntegrityError

Pieces = Iterator[bytes]

MAX_RATIO = 1100
"""Deflate cannot exceed 1032 to 1. zstd can, for gigabytes of zeros, so a layer may, up to a size:"""
FREE_PLAIN_BYTES = 4 << 30
"""So much may come out of any blob, however small: it costs seconds, and no memory or disk."""
_OUT_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = max(MAGIC_BYTES, 10)
_OTHERS = {
    "xz": re.compile(rb"\xfd7zXZ\0\0[\x01\x04\x0a]"),
    "bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
}
"""Compressions that are not read here. What follows the magic tells them from a tar's first name."""
_ZSTD_MAX_WINDOW_LOG = 27
"""128 MiB, the window that zstd itself refuses to exceed without being told."""


class PlainPieces(Protocol):
    """A layer's plain bytes, and what they hash to."""

    def __next__(self) -> bytes: ...

    def digest(self) -> bytes:
        """sha256 of all pieces, raw: the layer's diffID. Only after the last piece."""
        ...


class HashedPieces:
    """Decompresses pieces (unless told not to) and hashes what comes out.

    Raises:
        IntegrityError: on the way, for damaged or truncated input.
    """

    def __init__(self, pieces: Pieces, *, decode: bool = True) -> None:
        self._pieces = pieces
        self._decode = decode
        self._plain: Pieces | None = None
        self._hash = hashlib.sha256()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._plain is None:
            # Not before: the first pieces may have to be waited for.
            self._plain = decompressed(self._pieces) if self._decode else self._pieces
        piece = next(self._plain)
        self._hash.update(piece)
        return piece

    def digest(self) -> bytes:
        """See ``PlainPieces``."""
        return self._hash.digest()


class PlainStream:
    """Reads plain bytes in order."""

    def __init__(self, plain: PlainPieces) -> None:
        self._plain = plain
        self._piece = memoryview(b"")

    def read(self, size: int) -> bytes:
        """``size`` bytes, or fewer at the end."""
        parts, left = [], size
        while left and (part := self._take(left)):
            parts.append(part)
            left -= len(part)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def fill(self, view: memoryview) -> None:
        """Fill all of ``view``."""
        at = 0
        while at < len(view):
            part = self._take(len(view) - at)
            if not part:
                raise IntegrityError("the layer ends in the middle of a file: it is truncated")
            view[at : at + len(part)] = part
            at += len(part)

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes."""
        while size:
            part = self._take(size)
            if not part:
                raise IntegrityError("the layer ends in the middle of a file: it is truncated")
            size -= len(part)

    def drain(self) -> bytes:
        """Read to the end.

        Returns:
            sha256 of all plain bytes, raw: the layer's diffID.
        """
        while self._take(_OUT_BYTES):
            pass
        return self._plain.digest()

    def _take(self, most: int) -> memoryview:
        if not self._piece:
            self._piece = memoryview(next(self._plain, b""))
        part, self._piece = self._piece[:most], self._piece[most:]
        return part


def decompressed(pieces: Pieces, free_bytes: int = FREE_PLAIN_BYTES) -> Iterator[bytes]:
    """The plain bytes of ``pieces``, which are gzip, zstd or plain; no piece is empty.

    Raises:
        IntegrityError: damaged or truncated; or over ``free_bytes`` and MAX_RATIO times what went in.
    """
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    source = _Counted(head, pieces)
    if head.startswith(_GZIP_MAGIC):
        plain = _gzip(source)
    elif is_zstd(head):
        plain = _zstd(source)
    else:
        _refuse_others(head)
        return source
    return _bounded(plain, source, free_bytes)


def _refuse_others(head: bytes) -> None:
    for name, magic in _OTHERS.items():
        if magic.match(head):
            raise IntegrityError(
                f"it is compressed with {name}, and only gzip and zstd are read: unpack it first"
            )


class _Counted:
    """The pieces of a blob, none of them empty, and how many bytes were taken."""

    def __init__(self, head: bytes, pieces: Pieces) -> None:
        self._pieces = itertools.chain([head], pieces)
        self.taken = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        for piece in self._pieces:
            if piece:
                self.taken += len(piece)
                return piece
        raise StopIteration


def _bounded(plain: Pieces, source: _Counted, free_bytes: int) -> Iterator[bytes]:
    total = 0
    for piece in plain:
        total += len(piece)
        if total > free_bytes and total > MAX_RATIO * source.taken:
            raise IntegrityError(
                f"the layer inflates to more than {MAX_RATIO} times its size: refused as a decompression bomb"
            )
        yield piece


def _gzip_decoder() -> isal_zlib.Decompress:
    return isal_zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _gzip(source: Pieces) -> Iterator[bytes]:
    """Members one after the other; zeros behind the last are padding, as gzip itself has it."""
    decoder, started = _gzip_decoder(), False
    for piece in source:
        data = piece
        while data:
            if not started and not (data := data.lstrip(b"\0")):
                break
            if not started and data[0] != _GZIP_MAGIC[0]:
                raise IntegrityError("the layer is damaged: what follows its gzip stream is no gzip")
            started = True
            try:
                plain = decoder.decompress(data, _OUT_BYTES)
            except isal_zlib.error as e:  # type: ignore[misc]  # its stub says Any
                raise IntegrityError(f"the layer is damaged: gzip: {e}") from e
            if plain:
                yield plain
            data = decoder.unconsumed_tail
            if decoder.eof:
                data, decoder, started = decoder.unused_data, _gzip_decoder(), False
    if started:
        raise IntegrityError("the layer is truncated: its gzip stream does not end")


def _zstd(source: Pieces) -> Iterator[bytes]:
    """Frames one after the other.

    Of zstandard's interfaces only the reader bounds what one call gives out, however far a frame
    inflates. It takes a frame that breaks off for the end of its input, so ``ZstdFrames`` looks for that.
    """
    frames = ZstdFrames()
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _ZSTD_MAX_WINDOW_LOG)
    reader = decompressor.stream_reader(
        cast(IO[bytes], _Readable(frames.watch(source))), read_size=_OUT_BYTES, read_across_frames=True
    )
    try:
        while plain := reader.read(_OUT_BYTES):
            yield plain
    except zstandard.ZstdError as e:
        raise IntegrityError(f"the layer is damaged: zstd: {e}") from e
    if not frames.are_whole:
        raise IntegrityError("the layer is truncated: its zstd stream does not end")


class _Readable:
    """Pieces behind the ``read`` that zstandard asks for."""

    def __init__(self, source: Pieces) -> None:
        self._source = source
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._source, b""))
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)
