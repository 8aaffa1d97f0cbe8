"""What one download knows of the other members of its swarm, and whom it shuns. Pure: ``now`` is handed in.

A parent that sent wrong bytes is not asked again by this download. One that is gone, slow or lied about what
it has is left alone for a while, longer each time; one that is busy only as long as it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cafs.core.swarm.ids import HostId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.messages import FailReason, Member, MembersChanged
from cafs.core.swarm.picker import Parent

MAX_MEMBERS = 128
"""A scheduler tells of some fifty; one that tells of more talks nonsense."""
SHUN_S = 5.0
LONGEST_SHUN_S = 120.0
NEWCOMER_S = 1.0
"""For those who were at the source before to say what they have and read, before we read there ourselves."""
MOST_REQUESTS = 4
"""Under way to one parent."""
_FOREVER = float("inf")


@dataclass(slots=True)
class Known:
    """One member."""

    member: Member
    have: Bitmap
    heard_at: float
    coming: Bitmap = field(default_factory=Bitmap)
    """What it said that it reads from the source."""
    awaited_until: float = 0.0
    """It was at the source before us, and has not said anything yet."""
    in_flight: int = 0
    strikes: int = 0
    away_until: float = 0.0

    def is_usable(self, now: float) -> bool:
        return now >= self.away_until


@dataclass(slots=True)
class SwarmView:
    """All members but this host."""

    members: dict[HostId, Known] = field(default_factory=dict)
    self_owner: bool = True
    self_at_source: bool = False
    unproven: Bitmap = field(default_factory=Bitmap)
    """Pieces that came, and nobody could say what they must be: only the source can, and nobody is asked."""
    _told: bool = False

    def apply(self, change: MembersChanged, me: HostId, now: float) -> None:
        """What the scheduler says."""
        self.self_owner, self.self_at_source = change.self_owner, change.self_at_source
        first = not self._told
        self._told = True
        told = {member.host: member for member in change.members if member.host != me}
        if change.whole:
            self.members = {host: known for host, known in self.members.items() if host in told}
        for host in change.gone:
            self.members.pop(host, None)
        for host, member in told.items():
            known = self.members.get(host)
            if known is None:
                if len(self.members) < MAX_MEMBERS:
                    known = self.members[host] = Known(member, Bitmap(member.have.bits), now)
                    known.awaited_until = now + NEWCOMER_S if first and member.at_source else 0.0
                continue
            if known.member.address != member.address:
                known.away_until = 0.0 if known.away_until < _FOREVER else _FOREVER
            known.member = member
            known.have.bits |= member.have.bits

    def heard(self, host: HostId, numbers: Iterable[int], now: float, coming: Bitmap | None = None) -> None:
        """The member announced pieces, or what it reads from the source, or only gave a sign of life."""
        if (known := self.members.get(host)) is not None:
            known.heard_at, known.awaited_until = now, 0.0
            known.coming = known.coming if coming is None else coming
            known.have.bits |= Bitmap.of(numbers).bits

    def complete(self, host: HostId, count: int) -> None:
        """The member has all pieces."""
        if (known := self.members.get(host)) is not None:
            known.have = Bitmap.full(count)

    def asked(self, host: HostId) -> None:
        if (known := self.members.get(host)) is not None:
            known.in_flight += 1

    def answered(self, host: HostId) -> None:
        """The request is over, well or not."""
        if (known := self.members.get(host)) is not None:
            known.in_flight = max(0, known.in_flight - 1)

    def note_success(self, host: HostId, now: float) -> None:
        if (known := self.members.get(host)) is not None:
            known.heard_at, known.strikes = now, 0

    def note_failure(
        self, host: HostId, number: int | None, reason: FailReason, now: float, retry_after_s: float = 0.0
    ) -> None:
        """The member did not give a piece, or (None) broke off its announcements.

        What fails while it is left alone was asked before: a link that is cut fails all requests on it, and
        that is one failure.
        """
        known = self.members.get(host)
        if known is None:
            return
        if number is not None and reason is FailReason.GONE:
            known.have.discard(number)  # it may have been evicted since
        if reason is FailReason.CORRUPT:
            known.away_until = _FOREVER
        elif reason is FailReason.REFUSED:
            known.away_until = max(known.away_until, now + min(max(retry_after_s, 0.1), SHUN_S))
        elif known.is_usable(now):
            known.strikes += 1
            pause = min(SHUN_S * 2.0 ** min(known.strikes - 1, 10), LONGEST_SHUN_S)
            known.away_until = max(known.away_until, now + pause)

    def awaits(self, now: float) -> bool:
        """Somebody who was at the source before us will say in a moment what need not be read again."""
        return any(
            known.is_usable(now) and known.member.at_source and now < known.awaited_until
            for known in self.members.values()
        )

    def at_source(self) -> int:
        """How many others read from there."""
        return sum(known.member.at_source for known in self.members.values())

    def parents(self, now: float, count: int | None) -> list[Parent]:
        """As the picker sees them."""
        return [self._parent(known, now, count) for known in self.members.values()]

    def _parent(self, known: Known, now: float, count: int | None) -> Parent:
        member = known.member
        if member.complete and count is not None and not known.strikes:
            known.have = Bitmap.full(count)
        return Parent(
            member.host,
            Bitmap(known.have.bits & ~self.unproven.bits),
            score=member.score,
            in_flight=known.in_flight,
            most=MOST_REQUESTS,
            seed=member.seed,
            usable=known.is_usable(now),
            owner=member.owner,
            at_source=member.at_source,
            heard_at=known.heard_at,
            coming=known.coming,
        )

    def can_help(self, missing: Bitmap, now: float) -> bool:
        """Somebody usable has one of these pieces, or can get it."""
        wanted = missing.bits & ~self.unproven.bits
        return any(
            known.is_usable(now)
            and (known.member.complete or known.member.at_source or known.have.bits & wanted)
            for known in self.members.values()
        )

    def holds_more(self, have: Bitmap, now: float) -> bool:
        """Somebody usable has a piece that is not among these."""
        return any(
            known.is_usable(now) and (known.member.complete or known.have.bits & ~have.bits)
            for known in self.members.values()
        )
