"""Whose turn it is to bring a piece that nobody has: rendezvous hashing with bounded loads. Pure.

All members of a swarm compute the same order without a word. Left to the hashes alone, one host would get
twice as many of a few pieces as another, and its link would be what all wait for. So pieces are given out in
blocks, in which nobody gets more than his share, rounded up: a piece goes to the first in its order who has
not got that many yet. When a member comes or goes its own pieces change hands, and a few of others'.

Source of the method: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), here on
top of rendezvous hashing.
"""

from __future__ import annotations

from collections.abc import Iterable

import blake3

from cafs.core.swarm.ids import HostId, TaskId

BLOCK = 32
"""Neighbouring pieces that are given out together: as many as a swarm has owners at most."""
_WEIGHT_BYTES = 8
_MOST_BLOCKS = 4096
"""Remembered of one task: of 131,072 pieces."""


def in_order(task: TaskId, number: int, hosts: Iterable[HostId]) -> list[HostId]:
    """The hosts, the owner of the piece first, then who takes its place."""
    return _block_in_order(task, number // BLOCK, tuple(hosts))[number % BLOCK]


class Turns:
    """Remembers orders, and one host's weights, for one task: each block costs a hash for each host."""

    def __init__(self) -> None:
        self._hosts: tuple[HostId, ...] = ()
        self._orders: dict[int, list[list[HostId]]] = {}
        self._weights: dict[int, bytes] = {}

    def order(self, task: TaskId, number: int, hosts: tuple[HostId, ...]) -> list[HostId]:
        """As ``in_order``."""
        if hosts != self._hosts:
            self._hosts, self._orders = hosts, {}
        block, place = divmod(number, BLOCK)
        found = self._orders.get(block)
        if found is None:
            if len(self._orders) >= _MOST_BLOCKS:
                self._orders.clear()
            found = self._orders[block] = _block_in_order(task, block, hosts)
        return found[place]

    def own_weight(self, task: TaskId, number: int, me: HostId) -> bytes:
        """How much this piece is this host's; one of these is used for one host."""
        block, place = divmod(number, BLOCK)
        found = self._weights.get(block)
        if found is None:
            if len(self._weights) >= _MOST_BLOCKS:
                self._weights.clear()
            found = self._weights[block] = _weights(task, block, me)
        return _weight(found, place)


def _block_in_order(task: TaskId, block: int, hosts: tuple[HostId, ...]) -> list[list[HostId]]:
    """The order of each of a block's pieces."""
    weights = {host: _weights(task, block, host) for host in hosts}
    share = -(-BLOCK // max(1, len(hosts)))
    left = dict.fromkeys(hosts, share)
    orders = []
    for place in range(BLOCK):
        by_weight = sorted(hosts, key=lambda host: (_weight(weights[host], place), host), reverse=True)
        owner = next((host for host in by_weight if left[host]), None)
        if owner is not None:
            left[owner] -= 1
            by_weight.remove(owner)
            by_weight.insert(0, owner)
        orders.append(by_weight)
    return orders


def _weights(task: TaskId, block: int, host: HostId) -> bytes:
    """Of all pieces of a block, side by side."""
    key = bytes.fromhex(task) + block.to_bytes(8, "little") + bytes.fromhex(host)
    return blake3.blake3(key).digest(BLOCK * _WEIGHT_BYTES)


def _weight(weights: bytes, place: int) -> bytes:
    return weights[place * _WEIGHT_BYTES : (place + 1) * _WEIGHT_BYTES]
