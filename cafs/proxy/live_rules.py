"""The rules of a proxy as they hold now: the manager's, then its own; the first that matches decides."""

from __future__ import annotations

from cafs.core.live.document import LiveConfig
from cafs.core.proxying.rules import Rule


class LiveRules:
    """Made once per program."""

    def __init__(self, own: tuple[Rule, ...]) -> None:
        self._own = own
        self.now = own

    def obey(self, live: LiveConfig) -> None:
        """The manager says otherwise."""
        self.now = (*live.proxy_rules, *self._own)
