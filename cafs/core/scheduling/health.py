"""What children say of their parents: how long pieces took, how often they failed, who lied. Pure.

Costs are compared in logarithms, and with what the same child pays elsewhere: a child behind a slow line
makes all its parents look slow, and none of them slower than the others. Both are moving averages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log

from cafs.core.scheduling.events import FailReason

_SLOW_FACTOR = log(4.0)
"""A parent that takes four times what others take may be slow, if they do not differ as much anyway."""
_DEVIATIONS = 3.0
_ENOUGH_COSTS = 12
_ENOUGH_CHILDREN = 3
_AVERAGED = 16
_SHARE = 1 / _AVERAGED
"""Of a new cost in the average; before there were so many, all count alike."""
_FAILURE_SHARE = {
    FailReason.CORRUPT: 0.5,
    FailReason.GONE: 0.2,
    FailReason.SLOW: 0.1,
    FailReason.REFUSED: 0.03,
}
_MIB = 1 << 20


@dataclass(slots=True, eq=False)
class Health:
    """Of one host."""

    paid: float = 0.0
    """As a child: mean log of milliseconds per MiB over all its parents."""
    payments: int = 0
    relative: float = 0.0
    """As a parent: mean of log cost less what the child usually pays."""
    costs: int = 0
    mean_log: float = 0.0
    """As a parent: mean log of milliseconds per MiB."""
    failure: float = 0.0
    """As a parent: moving share of pieces that failed, 0..1."""
    children: set[str] = field(default_factory=set)
    """A few of those that told costs."""
    slow_until: float = 0.0

    @property
    def piece_ms(self) -> float:
        """Typical milliseconds per MiB as a parent; 0: unknown."""
        return exp(self.mean_log) if self.costs else 0.0


class Costs:
    """How much relative costs differ over all hosts: the measure of who is slow."""

    __slots__ = ("_variance",)

    def __init__(self) -> None:
        self._variance = 0.25

    def note(self, parent: Health, child: Health, child_id: str, cost_ms: float, piece_bytes: int) -> bool:
        """A piece came. True: the parent is slow."""
        paid = log((cost_ms + 1) * _MIB / piece_bytes)
        payments = child.payments = child.payments + 1
        child.paid += (paid - child.paid) * (1 / payments if payments < _AVERAGED else _SHARE)
        off = paid - child.paid
        costs = parent.costs = parent.costs + 1
        share = 1 / costs if costs < _AVERAGED else _SHARE
        parent.relative += (off - parent.relative) * share
        parent.mean_log += (paid - parent.mean_log) * share
        parent.failure *= 0.97
        if len(parent.children) < _ENOUGH_CHILDREN:
            parent.children.add(child_id)
        square = off * off
        self._variance += ((square if square < 4.0 else 4.0) - self._variance) * 0.002
        return (
            parent.relative > _SLOW_FACTOR
            and costs >= _ENOUGH_COSTS
            and len(parent.children) >= _ENOUGH_CHILDREN
            and parent.relative > _DEVIATIONS * self._variance**0.5
        )


def note_failure(parent: Health, reason: FailReason) -> None:
    """A piece did not come from there."""
    parent.failure += (1.0 - parent.failure) * _FAILURE_SHARE.get(reason, 0.0)


@dataclass(slots=True, eq=False)
class Sentence:
    """A host is nobody's parent for a while."""

    until: float
    why: str
    accusers: set[str] = field(default_factory=set)


class Court:
    """Who is shunned, and who is not believed. Outlives the hosts: a liar that comes back is still one."""

    def __init__(self, sole_accusations: int) -> None:
        self.sentences: dict[str, Sentence] = {}
        self._accused: dict[str, set[str]] = {}
        """By accuser."""
        self._disbelieved: dict[str, float] = {}
        self._limit = sole_accusations

    def shunned(self, host_id: str) -> bool:
        """Whether nobody may be sent there. The core ends sentences itself, at a tick."""
        return host_id in self.sentences

    def believed(self, accuser: str, parents: int) -> bool:
        """Not any more, once it alone accused too many of its ``parents``."""
        if accuser in self._disbelieved:
            return False
        accused = self._accused.get(accuser, ())
        alone = sum(
            1 for host in accused if (found := self.sentences.get(host)) and found.accusers == {accuser}
        )
        return alone <= max(self._limit, parents // 10)

    def accuse(self, accuser: str, host_id: str, until: float, why: str) -> bool:
        """One child's word against a parent. True: the parent was not shunned so far."""
        self._accused.setdefault(accuser, set()).add(host_id)
        sentence = self.sentences.get(host_id)
        if sentence is None:
            self.sentences[host_id] = Sentence(until, why, {accuser})
            return True
        sentence.accusers.add(accuser)
        if until > sentence.until:
            sentence.until, sentence.why = until, why
        return False

    def disbelieve(self, accuser: str, until: float) -> list[str]:
        """End what rests on this word alone; those who are free again."""
        self._disbelieved[accuser] = until
        accused = self._accused.pop(accuser, set())
        free = []
        for host in accused:
            sentence = self.sentences.get(host)
            if sentence is None:
                continue
            sentence.accusers.discard(accuser)
            if not sentence.accusers:
                del self.sentences[host]
                free.append(host)
        return sorted(free)

    def end_due(self, now: float) -> list[str]:
        """Those whose time is over."""
        for accuser in [accuser for accuser, until in self._disbelieved.items() if until <= now]:
            del self._disbelieved[accuser]
        free = [host for host, sentence in self.sentences.items() if sentence.until <= now]
        for host in free:
            del self.sentences[host]
        if free:
            gone = set(free)
            self._accused = {who: left for who, accused in self._accused.items() if (left := accused - gone)}
        return free
