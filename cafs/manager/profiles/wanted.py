"""Which of the starts that are offered are wanted. Pure.

An image is learned of its newest ``KEPT_STARTS`` starts; once there are so many, one more is taken each hour,
so that what is learned follows what images are used for. Ten thousand hosts that start one image offer that,
and a few dozen are asked to send.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from cafs.core.learning import KEPT_STARTS

MORE_EVERY_S = 3600.0
TOLD_WITHIN_S = 60.0
MOST_OF_HOST = 16
"""Asked of one host and not told yet."""
_MOST_ASKED = 10_000


@dataclass(frozen=True, slots=True)
class Learned:
    """How much is known of an image."""

    starts: int = 0
    age_s: float = 0.0
    """Of the newest; below 0 where the clock was set back since."""


class Wanted:
    """Who was asked to send which start, and has not yet."""

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        """Host and image, and when; the oldest first."""
        self._of_host: Counter[str] = Counter()
        self._of_image: Counter[bytes] = Counter()

    def ask(self, host_id: str, image: bytes, learned: Learned, now: float) -> bool:
        """Whether a host is to send the start that it offers."""
        self._forget_old(now)
        room = KEPT_STARTS - learned.starts
        if room <= 0:
            room = 0 if 0 <= learned.age_s < MORE_EVERY_S else 1
        if (
            self._of_image[image] >= room
            or self._of_host[host_id] >= MOST_OF_HOST
            or len(self._asked) >= _MOST_ASKED
            or (host_id, image) in self._asked
        ):
            return False
        self._asked[host_id, image] = now
        self._of_host[host_id] += 1
        self._of_image[image] += 1
        return True

    def take(self, host_id: str, image: bytes, now: float) -> bool:
        """Whether a host was asked for the start that it sends; it may send it once."""
        self._forget_old(now)
        if (host_id, image) not in self._asked:
            return False
        self._forget(host_id, image)
        return True

    def _forget_old(self, now: float) -> None:
        while self._asked and next(iter(self._asked.values())) < now - TOLD_WITHIN_S:
            self._forget(*next(iter(self._asked)))

    def _forget(self, host_id: str, image: bytes) -> None:
        del self._asked[host_id, image]
        self._of_host[host_id] -= 1
        self._of_image[image] -= 1
        if not self._of_host[host_id]:
            del self._of_host[host_id]
        if not self._of_image[image]:
            del self._of_image[image]
