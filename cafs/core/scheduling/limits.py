"""The numbers by which the core decides. docs/scheduler.md explains each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All bounds and patience of a scheduler."""

    alive_every_s: float = 10.0
    gone_after_s: float = 30.0
    """A host that was silent for so long is gone."""
    hosts: int = 200_000
    tasks: int = 200_000
    peers_per_host: int = 4096
    """Downloads under way on one host."""
    pieces: int = 65_536
    """Of one task: 1 TiB in the largest pieces."""

    owners_per_task: int = 32
    parents_per_peer: int = 32
    """Candidate parents that a peer is told of, seeds not counted."""
    sample: int = 48
    """Members, drawn at random, of which the best are chosen."""
    children_per_member: int = 128
    """Peers that are told of one member as a candidate parent; seeds and owners may have more."""
    avoid_s: float = 30.0
    """A parent that a peer could not reach is not offered to it again for so long."""

    source_peers: int = 4
    """Of one task, at the source at once, when no seed does it."""
    seed_patience_s: float = 5.0
    """For a seed to begin with what it was told to fetch."""
    stall_s: float = 20.0
    """A download that got nothing for so long is helped."""
    stalls: int = 3
    """So often; then it may go to the source itself."""
    source_failures: int = 8
    """So many peers in a row failed at the source: others are told so instead of sent."""
    source_failed_s: float = 10.0
    """For so long."""
    retry_s: float = 5.0
    """When to come again after a refusal that may pass."""

    small_swarm: int = 64
    """Up to so many members changes are told at once; larger swarms hear them at ticks, bundled."""
    flush_per_tick: int = 48
    """Peers of large swarms that are told at one tick: bounds how long a tick takes."""
    digests_every_s: float = 0.2
    """Large swarms hear of digests so often at most."""

    shun_corrupt_s: float = 3600.0
    slow_s: float = 60.0
    sole_accusations: int = 3
    """Who alone accused more hosts, and more than a tenth of its parents, is believed no longer."""
    quarantine_s: float = 60.0
    quarantine_votes: int = 2

    task_idle_s: float = 86_400.0
    """A task that nobody downloaded for so long is deleted from all hosts."""
    empty_task_s: float = 600.0
    """A task that no host holds is remembered for so long."""
    explained_per_task: int = 32
    explained_choices: int = 1024
    """Choices of parents whose candidates are remembered, in all tasks together."""
    fed_pairs: int = 16_384
    """Pairs of hosts of which is remembered what one gave the other, in all tasks together."""
