"""Whose turn it is to bring a piece that nobody has: rendezvous hashing. Pure.

All members of a swarm compute the same order without a word, and when a member comes or goes only its own
pieces change hands.
"""

from __future__ import annotations

from collections.abc import Iterable

import blake3

from cafs.core.swarm.ids import HostId, TaskId


def weight(task: TaskId, number: int, host: HostId) -> bytes:
    """How much this piece is this host's: the first 8 bytes of a hash."""
    key = bytes.fromhex(task) + number.to_bytes(8, "little") + bytes.fromhex(host)
    return blake3.blake3(key).digest(8)


def in_order(task: TaskId, number: int, hosts: Iterable[HostId]) -> list[HostId]:
    """The hosts, the owner of the piece first, then who takes its place."""
    return sorted(hosts, key=lambda host: (weight(task, number, host), host), reverse=True)


def owner(task: TaskId, number: int, hosts: Iterable[HostId]) -> HostId | None:
    """The owner of the piece; None when there are no hosts."""
    return max(hosts, key=lambda host: (weight(task, number, host), host), default=None)
