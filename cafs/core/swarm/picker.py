"""Which missing piece to ask of whom next. Pure: a view of one download goes in, requests come out.

A piece that several have is asked of whoever is least busy for his score. A piece that is *scarce* (nobody
has it, or one only) is its owner's business (``ownership``): he asks him who has it, or the source's side;
everybody else waits until the owner has it, so that a seed gives each piece once and not to everybody. An
owner who is not heard of is passed over, and where a reader waits one who is slow, too; so every piece has
somebody whose turn it is, whoever dies.

Pieces that a reader waits for come first, in order; then those of a given order; then what is scarce and
ours; then the rarest. What is equal is taken in an order that differs from host to host, so that members have
something for each other; from the beginning while nobody else lacks any of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.ownership import Turns

PATIENCE_S = 2.0
"""An owner not heard of for so long is passed over; much more than any piece takes on a LAN."""
READER_PATIENCE_S = 0.5
"""An owner who is busy with other pieces is passed over after so long when a reader waits."""
COMING_PATIENCE_S = 6.0
"""For what another host said it is reading from the source: a slow origin takes that long."""
LOOK_AT = 256
"""Scarce pieces considered at once: bounds the time of a decision, however large the content."""
BRING_AHEAD = 16
"""Of what nobody has only the next so many are asked of those at the source, where they are several. Of more,
one host's last would be read before another's first: readers everywhere would wait for a hole, and all
requests that a parent may be busy with would wait there for the source. One alone is asked for few anyway."""
RAREST_OF = 64
"""The rarest of so many is taken: counting all of them for each request would cost more than the request."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A member as the picker sees it."""

    host: HostId
    have: Bitmap
    score: float = 0.5
    in_flight: int = 0
    most: int = 4
    """Requests it may be busy with for us."""
    seed: bool = False
    usable: bool = True
    """Not shunned, not away."""
    owner: bool = True
    at_source: bool = False
    heard_at: float = 0.0
    """When it last gave any sign of life: an announcement, or a piece."""
    coming: Bitmap = field(default_factory=Bitmap)
    """It is reading these from the source."""

    @property
    def has_room(self) -> bool:
        return self.usable and self.in_flight < self.most


@dataclass(frozen=True, slots=True)
class View:
    """One download at one moment."""

    task: TaskId
    me: HostId
    missing: Bitmap
    """Wanted, not here and not under way."""
    parents: Sequence[Parent]
    now: float
    urgent: Sequence[int] = ()
    """What readers wait for, the most urgent first."""
    order: Sequence[int] = ()
    """What is to come before the rest."""
    self_owner: bool = True
    self_at_source: bool = False
    waiting: Mapping[int, float] = field(default_factory=dict)
    """Since when a scarce piece is missed (from ``Plan.waiting``); others are missed as of now."""
    room: int = 16
    """So many more requests may be made."""
    source_room: int = 4
    """So many of them to the source."""
    patience_s: float = PATIENCE_S


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for a piece; ``host`` None: the source."""

    number: int
    host: HostId | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    asks: tuple[Ask, ...]
    waiting: tuple[int, ...]
    """Scarce pieces that are somebody else's to get first."""


def pick(view: View, owners: Turns, sources: Turns) -> Plan:
    """Decide.

    Args:
        view: What is known now.
        owners: Kept by the caller between calls for one task.
        sources: The same, for those at the source.
    """
    return _Picking(view, owners, sources).run()


class _Picking:
    """One decision; counts what it has already given out."""

    def __init__(self, view: View, owners: Turns, sources: Turns) -> None:
        self._view = view
        self._turns = owners
        self._source_turns = sources
        self._room = view.room
        self._source_room = view.source_room
        self._busy = {parent.host: parent.in_flight for parent in view.parents}
        self._free = {parent.host: parent for parent in view.parents if parent.has_room}
        self._by_host = {parent.host: parent for parent in view.parents}
        mine = int(view.me[-8:], 16)
        self._salts = {parent.host: int(parent.host[-8:], 16) ^ mine for parent in view.parents}
        self._urgent = frozenset(view.urgent)
        self._owners = _hosts(view, self_too=view.self_owner, at_source=False)
        self._sources = _hosts(view, self_too=view.self_at_source, at_source=True)
        self._held, self._plenty = _coverage(view.parents)
        self._coming = _coming(view.parents)
        shares = any(p.usable and view.missing.bits & ~p.have.bits for p in view.parents)
        self._salt = view.me if shares else None
        """Makes our order another one than that of others who get the same; None: there are none."""

    def run(self) -> Plan:
        asks: list[Ask] = []
        waiting: list[int] = []
        unseen = self._view.missing.bits
        for number in self._candidates():
            if not self._can_ask():
                break
            unseen &= ~(1 << number)
            if self._plenty >> number & 1:
                host = self._holder(number)
                ask = self._take(number, host) if host is not None else None
            elif self._is_ours(number):
                ask = self._bring(number)
            else:
                ask = None
                waiting.append(number)
            if ask is not None:
                asks.append(ask)
        # What was not looked at is as it was: else a busy moment would begin all waits anew.
        waiting += [number for number in self._view.waiting if unseen >> number & 1]
        return Plan(tuple(asks), tuple(waiting))

    def _can_ask(self) -> bool:
        """Anybody, for anything."""
        at_source = self._view.self_at_source and self._source_room > 0
        return self._room > 0 and (bool(self._free) or at_source)

    def _can_bring(self) -> bool:
        """Somebody could get what nobody has; else there is no need to look whose turn each of these is."""
        if self._view.self_at_source:
            return self._source_room > 0
        return any(host in self._free for host in self._sources)

    def _candidates(self) -> Iterator[int]:
        view = self._view
        left = Bitmap(view.missing.bits)
        for number in (*view.urgent, *view.order):
            if number in left:
                left.discard(number)
                yield number
        scarce = Bitmap(left.bits & ~self._plenty)
        yield from _some(Bitmap(scarce.bits & self._held), LOOK_AT, self._salt)
        if self._can_bring():
            most = LOOK_AT if view.self_at_source or len(self._sources) == 1 else BRING_AHEAD
            yield from _some(Bitmap(scarce.bits & ~self._held), most)
        yield from self._rarest(Bitmap(left.bits & self._plenty))

    def _rarest(self, held: Bitmap) -> list[int]:
        view = self._view
        if self._salt is None:
            return _some(held, RAREST_OF)
        haves = [parent.have.bits for parent in view.parents if parent.usable]
        looked_at = _some(held, RAREST_OF, self._salt)
        # With the host's own weight last: equally rare pieces are taken in another order by everybody.
        return sorted(
            looked_at,
            key=lambda n: (
                sum(have >> n & 1 for have in haves),
                self._turns.own_weight(view.task, n, view.me),
            ),
        )

    def _holder(self, number: int) -> HostId | None:
        """The least busy for his score, of those who have it."""
        best = min(
            (p for p in self._free.values() if number in p.have),
            key=lambda p: ((self._busy[p.host] + 1) / max(p.score, 0.05), self._tie(p.host, number)),
            default=None,
        )
        return best.host if best is not None else None

    def _tie(self, host: HostId, number: int) -> int:
        """Of those who are as good, each host asks another one, and for each piece another one."""
        return self._salts[host] * (2 * number + 1) & 0xFFFF_FFFF

    def _take(self, number: int, host: HostId | None) -> Ask:
        self._room -= 1
        if host is None:
            self._source_room -= 1
        else:
            self._busy[host] += 1
            if self._busy[host] >= self._by_host[host].most:
                self._free.pop(host, None)
        return Ask(number, host)

    def _is_ours(self, number: int) -> bool:
        """A scarce piece that is ours to get."""
        view = self._view
        if self._held >> number & 1 or not view.self_at_source:
            return self._is_my_turn(number, self._turns.order(view.task, number, self._owners))
        if self._coming >> number & 1 and self._waited(number) < self._coming_patience(number):
            return False
        return self._is_my_turn(number, self._source_turns.order(view.task, number, self._sources))

    def _waited(self, number: int) -> float:
        return self._view.now - self._view.waiting.get(number, self._view.now)

    def _coming_patience(self, number: int) -> float:
        return self._view.patience_s if number in self._urgent else COMING_PATIENCE_S

    def _bring(self, number: int) -> Ask | None:
        """From him who has it, from the source, or from those who are there."""
        view = self._view
        if self._held >> number & 1:
            host = self._holder(number)
            return self._take(number, host) if host is not None else None
        if view.self_at_source:
            return self._take(number, None) if self._source_room > 0 else None
        return self._ask_to_bring(number)

    def _ask_to_bring(self, number: int) -> Ask | None:
        """Of who reads it already, else of whose turn it is: another one would read it, too, in the end.

        Where a reader waits, of the next one who has room.
        """
        order = self._source_turns.order(self._view.task, number, self._sources)
        readers = [host for host in order if number in self._by_host[host].coming]
        for host in (*readers, *order):
            if host in self._free:
                return self._take(number, host)
            if number not in self._urgent:
                return None
        return None

    def _is_my_turn(self, number: int, order: Sequence[HostId]) -> bool:
        """Nobody before us in the order is alive and quick enough. Who is not in the order comes last."""
        view = self._view
        waited = self._waited(number)
        held = self._held >> number & 1
        patience_s = READER_PATIENCE_S if held and number in self._urgent else view.patience_s
        place = 0
        for host in order:
            if host == view.me:
                return True
            parent = self._by_host[host]
            if number in parent.have:
                continue
            place += 1
            unheard_s = view.now - parent.heard_at
            silent = (unheard_s if held else min(unheard_s, waited)) >= view.patience_s
            slow = number in self._urgent and waited >= patience_s * place
            if not (silent or slow):
                return False
        return True


def _coverage(parents: Sequence[Parent]) -> tuple[int, int]:
    """Which pieces somebody usable has, and which several have. All seeds at the source count as one."""
    held = plenty = 0
    for parent in parents:
        if parent.usable and parent.seed and parent.at_source:
            held |= parent.have.bits
    for parent in parents:
        if parent.usable and not (parent.seed and parent.at_source):
            plenty |= held & parent.have.bits
            held |= parent.have.bits
    return held, plenty


def _coming(parents: Sequence[Parent]) -> int:
    coming = 0
    for parent in parents:
        if parent.usable and parent.at_source:
            coming |= parent.coming.bits
    return coming


def _hosts(view: View, *, self_too: bool, at_source: bool) -> tuple[HostId, ...]:
    """Who takes part in the rendezvous."""
    chosen = [p.host for p in view.parents if p.usable and (p.at_source if at_source else p.owner)]
    return tuple(sorted([*chosen, view.me] if self_too else chosen))


def _some(pieces: Bitmap, most: int, salt: HostId | None = None) -> list[int]:
    """At most so many of them: the first ones, or from a place on that differs from host to host."""
    if len(pieces) <= most:
        return list(pieces)
    numbers = list(pieces)
    start = int(salt[:8], 16) % len(numbers) if salt else 0
    return (numbers[start:] + numbers[:start])[:most]
