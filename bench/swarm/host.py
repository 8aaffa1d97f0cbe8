"""A simulated host: a link, pieces, and whom it was told of."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from cafs.core.scheduling.decisions import Members
from cafs.core.scheduling.events import Piece


@dataclass(slots=True, eq=False)
class SimHost:
    """One machine and its one download."""

    id: str
    up: float
    """Pieces that it can give in a round."""
    down: int
    """Pieces that it can take in a round."""
    seed: bool = False
    liar: bool = False
    """Gives wrong bytes."""
    alive: bool = True
    have: int = 0
    gained: int = 0
    """In this round: given on in the next one."""
    credit: float = 0.0
    """What is left of ``up`` in this round."""
    known: dict[str, SimHost] = field(default_factory=dict)
    order: list[SimHost] = field(default_factory=list)
    """``known`` as a list; rebuilt when it changed."""
    owners: list[str] = field(default_factory=list)
    """As it was told, itself included if it is one; in order of id."""
    owner_ids: set[str] = field(default_factory=set)
    sources: dict[str, SimHost] = field(default_factory=dict)
    """Members at the source, as it was told."""
    owner: bool = False
    at_source: bool = False
    peer: str = ""
    fresh: list[Piece] = field(default_factory=list)
    """Pieces not reported yet."""
    phase: int = 0
    """Not all report in the same round."""
    got_round: int = 0
    done_round: int = -1
    uploaded: int = 0

    def hear(self, told: Members, hosts: dict[str, SimHost]) -> None:
        """Take in what the scheduler says of the others."""
        if told.whole:
            self.known.clear()
            self.owner_ids.clear()
            self.sources.clear()
        for gone in told.gone:
            self.forget(gone)
        for member in told.members:
            other = self.known[member.host_id] = hosts[member.host_id]
            (self.owner_ids.add if member.owner else self.owner_ids.discard)(member.host_id)
            if member.at_source:
                self.sources[member.host_id] = other
            else:
                self.sources.pop(member.host_id, None)
        self.owner = told.self_owner
        (self.owner_ids.add if self.owner else self.owner_ids.discard)(self.id)
        self.owners = sorted(self.owner_ids)
        self.order = list(self.known.values())

    def forget(self, host_id: str) -> None:
        """It is no candidate any more."""
        if self.known.pop(host_id, None) is not None:
            self.order = list(self.known.values())
        self.owner_ids.discard(host_id)
        self.sources.pop(host_id, None)


def pick(bits: int, pieces: int, rng: Random) -> int:
    """The number of one of the bits set: the first at or after a random place, else the first of all."""
    place = int(rng.random() * pieces)
    turned = bits >> place
    if turned:
        return place + (turned & -turned).bit_length() - 1
    return (bits & -bits).bit_length() - 1
