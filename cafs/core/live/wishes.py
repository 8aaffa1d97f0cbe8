"""Which downloads a cluster wants at all, and how urgently: block list and applications. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cafs.core.swarm.priorities import USUAL


@dataclass(frozen=True, slots=True)
class Blocked:
    """A line of the block list: fits a download that is as all of its fields say."""

    application: str | None = None
    tag: str | None = None
    priority: int | None = None
    url: str | None = None
    """A regular expression (RE2), searched for anywhere in the address."""
    search: Callable[[str], object] | None = None
    """That expression, compiled."""

    def fits(self, *, url: str, application: str, tag: str, priority: int) -> bool:
        """Whether it is about this download."""
        return (
            self.application in {None, application}
            and self.tag in {None, tag}
            and self.priority in {None, priority}
            and (self.search is None or bool(self.search(url)))
        )

    def __str__(self) -> str:
        told = (("application", self.application), ("tag", self.tag), ("priority", self.priority))
        return ", ".join(f"{name} {value}" for name, value in (*told, ("url", self.url)) if value is not None)


@dataclass(frozen=True, slots=True)
class WishRules:
    """As of one version of a cluster's configuration."""

    block: tuple[Blocked, ...] = ()
    applications: Mapping[str, int] = field(default_factory=dict)
    """Priorities of their downloads, where a download does not say another one than the usual."""

    def priority_of(self, application: str, priority: int) -> int:
        """What counts."""
        return self.applications.get(application, priority) if priority == USUAL else priority

    def why_blocked(self, *, url: str, application: str, tag: str, priority: int) -> str:
        """The line that blocks it; empty: none does."""
        for line in self.block:
            if line.fits(url=url, application=application, tag=tag, priority=priority):
                return str(line)
        return ""
