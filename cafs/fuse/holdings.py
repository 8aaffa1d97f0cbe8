"""Which nodes the kernel holds: how often each was looked up and not given back.

One word for each node, in memory that may be shared with the servers before and after us: a node is held
from a LOOKUP on until FORGET took back every one, whichever server answered them. A server that is killed
between counting a lookup and answering it leaves one too many, and then the node is held for ever;
the other order would give up a node that somebody reads.
"""

from __future__ import annotations


class Holdings:
    """Counts of nodes from ``first`` on."""

    def __init__(self, memory: memoryview, first: int) -> None:
        """
        Args:
            memory: Eight bytes for each node, zero at the beginning of a mount.
            first: The lowest node.
        """
        self._counts = memory.cast("Q")
        self._first = first

    def note_lookup(self, node: int) -> None:
        """The kernel is about to be told of the node."""
        if self._counts_it(node):
            self._counts[node - self._first] += 1

    def take_back(self, node: int, count: int) -> bool:
        """The kernel gives up so many; True when it has let go of the node with that."""
        if not self._counts_it(node) or not self.is_held(node):
            return False
        left = max(self._counts[node - self._first] - count, 0)
        self._counts[node - self._first] = left
        return left == 0

    def is_held(self, node: int) -> bool:
        """Whether the kernel knows the node. One that has no word is never given up."""
        return not self._counts_it(node) or self._counts[node - self._first] > 0

    def _counts_it(self, node: int) -> bool:
        return 0 <= node - self._first < len(self._counts)
