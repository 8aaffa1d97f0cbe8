"""Which reads wait for bytes, and which wait for their turn to. Pure; used by ``session``.

Reads of one image whose registry hangs are not to take all places from those of others. So a file may have as
many reads under way as places are free: one alone gets half of them, two a third each, and however many hang,
there is a place for who comes next. What finds none waits behind the reads of the same file only.
(A. Choudhury, E. Hahne: Dynamic queue length thresholds, IEEE/ACM ToN 6(2), 1998, with a factor of 1.)
"""

from __future__ import annotations

from collections import Counter

from cafs.fuse.protocol import Read


class Turns:
    """Reads by file, in the order in which they came."""

    def __init__(self, places: int) -> None:
        """
        Args:
            places: Reads under way at the same time.
        """
        self._free = places
        self._under_way: Counter[int] = Counter()
        self._parked: dict[int, dict[int, Read]] = {}
        """By node and unique."""

    def park(self, read: Read) -> None:
        """A read came; ``take`` gives it back when it is its turn."""
        self._parked.setdefault(read.nodeid, {})[read.unique] = read

    def take(self) -> Read | None:
        """The next one, which is under way from now on: of the file that has the fewest."""
        if not self._parked:
            return None
        node = min(self._parked, key=self._under_way.__getitem__)
        if self._under_way[node] >= self._free:
            return None
        unique = next(iter(self._parked[node]))
        read = self._parked[node][unique]
        self.drop(node, unique)
        self._under_way[node] += 1
        self._free -= 1
        return read

    def end(self, read: Read) -> None:
        """It is not under way any more."""
        self._free += 1
        self._under_way[read.nodeid] -= 1
        if not self._under_way[read.nodeid]:
            del self._under_way[read.nodeid]

    def drop(self, node: int, unique: int) -> bool:
        """Forget a read that waits for its turn; False: it does not."""
        parked = self._parked.get(node, {})
        if parked.pop(unique, None) is None:
            return False
        if not parked:
            del self._parked[node]
        return True
