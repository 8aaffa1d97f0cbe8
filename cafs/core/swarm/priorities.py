"""What priorities mean, for schedulers, peers and whoever wishes. Pure; docs/peer.md has the table."""

from __future__ import annotations

from dataclasses import dataclass

USUAL, HIGHEST = 3, 6


@dataclass(frozen=True, slots=True)
class Policy:
    """What a priority means for going to the source."""

    meaning: str
    blocked: bool = False
    seeds: bool = True
    peers: bool = True
    at_once: bool = False
    """A peer goes as well, without waiting for the seed."""
    patience: float = 1.0
    """Times ``seed_patience_s``."""


PRIORITIES = (
    Policy("blocked: refused", blocked=True),
    Policy("from the swarm only: nobody goes to the source for it", seeds=False, peers=False),
    Policy("spares the seeds: peers go to the source themselves", seeds=False),
    Policy("usual: a seed goes to the source; peers when no seed can"),
    Policy("raised: as usual, with half the patience for a seed", patience=0.5),
    Policy("high: as usual, with an eighth of the patience", patience=0.125),
    Policy("urgent: a peer goes to the source at once, beside the seed", at_once=True, patience=0.125),
)
"""By priority. 0 is Dragonfly's LEVEL1, 1 its LEVEL2, 2 its LEVEL3; its classes of seeds (LEVEL4 to 6) are
ours of patience, as there is one class of seeds only."""


def policy_of(priority: int) -> Policy:
    """For any number: what is above the table is its last line."""
    return PRIORITIES[min(max(priority, 0), len(PRIORITIES) - 1)]
