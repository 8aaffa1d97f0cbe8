"""When a download that was not sent to the source goes there all the same: nobody helps it. Pure.

Only what parents give counts as help. What comes from the source meanwhile is no reason to wait for parents
again, or parents that are none, by a scheduler that talks nonsense, would let a few pieces come a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

STALL_S, LONG_STALL_S = 3.0, 60.0
"""No parent gave anything for so long: without a scheduler, and with one, we go to the source unasked."""


@dataclass(slots=True)
class SelfHelp:
    """Of one download."""

    waits_since: float
    given: int = 0

    def note(self, now: float, given: int, *, excused: bool) -> None:
        """Look at what has changed.

        Args:
            now: Seconds.
            given: Right pieces that parents gave so far.
            excused: That none came says nothing of parents: this host was sent to the source, or holds back.
        """
        if excused or given != self.given:
            self.given, self.waits_since = given, now

    def is_due(self, now: float, *, alone: bool, can_be_helped: bool) -> bool:
        """Go.

        Args:
            now: Seconds.
            alone: No scheduler cares for this download.
            can_be_helped: Somebody is known who has, or can get, what is missing.
        """
        waited_s = now - self.waits_since
        return waited_s > (STALL_S if alone else LONG_STALL_S) or (alone and not can_be_helped)
