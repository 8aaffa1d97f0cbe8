"""Which wishes this peer fulfils, and how urgently: the rules that hold now."""

from __future__ import annotations

from dataclasses import replace

from cafs.core.live.wishes import WishRules
from cafs.core.swarm.priorities import USUAL, policy_of
from cafs.errors import BlockedError
from cafs.p2p.content import Wish
from cafs.p2p.membership import TAG


class WishPolicy:
    """Made once per program; ``rules`` are replaced while it runs."""

    def __init__(self) -> None:
        self.rules = WishRules()

    def judge(self, wish: Wish) -> Wish:
        """The wish with the priority that counts.

        Raises:
            BlockedError: it is.
        """
        self._check(url=wish.url, application=wish.application, tag=wish.tag, priority=wish.priority)
        priority = self.rules.priority_of(wish.application, wish.priority)
        if policy_of(priority).blocked:
            raise BlockedError("blocked: its priority is 0")
        return wish if priority == wish.priority else replace(wish, priority=priority)

    def judge_chunks(self, url: str) -> None:
        """Of a lazily mounted image, whose blob has this address.

        Raises:
            BlockedError: they are.
        """
        self._check(url=url, application="", tag=TAG, priority=USUAL)

    def _check(self, *, url: str, application: str, tag: str, priority: int) -> None:
        why = self.rules.why_blocked(url=url, application=application, tag=tag, priority=priority)
        if why:
            raise BlockedError(f"blocked by the cluster's configuration: {why}")
