"""The wanted part of a body that comes in pieces: an origin may send more than was asked for. Pure."""

from __future__ import annotations


class BodyWindow:
    """So many bytes from so far on."""

    __slots__ = ("_skip", "left")

    def __init__(self, skip: int, left: int | None) -> None:
        """
        Args:
            skip: Bytes before the wanted ones.
            left: How many are wanted; None: all that come.
        """
        self._skip = skip
        self.left = left
        """That have not come yet."""

    def cut(self, piece: bytes) -> bytes:
        """What is wanted of the next piece."""
        wanted, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
        if self.left is not None:
            wanted = wanted[: self.left]
            self.left -= len(wanted)
        return wanted
