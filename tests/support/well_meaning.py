"""Hosts that do as a scheduler tells them, and a cluster in which from now on all goes well.

Whatever a scheduler had to bear before: were it to leave a download without a way forward, that download
would not come to an end here.
"""

from __future__ import annotations

from cafs.core.scheduling.events import (
    HostAlive,
    Meta,
    Outcome,
    PeerFinished,
    PeerRegister,
    Piece,
    PiecesFinished,
    TaskMeta,
)
from cafs.core.scheduling.records import Peer
from cafs.core.scheduling.states import HostState, PeerState
from tests.support.scheduling import MIB, Cluster, digest_of

_ROUND_S = 1.0


def unfinished(cluster: Cluster) -> list[Peer]:
    """Downloads under way that want pieces."""
    return [peer for peer in cluster.core.state.peers.values() if peer.unfinished]


def all_goes_well(cluster: Cluster, pieces: int, most_rounds: int) -> None:
    """Until every download has come to an end, or for so many rounds. Silent hosts stay so.

    Args:
        cluster: In any state.
        pieces: Of a content whose length nobody has told yet.
        most_rounds: Of a second each.
    """
    while unfinished(cluster) and most_rounds:
        most_rounds -= 1
        for host in list(cluster.core.state.hosts.values()):
            cluster(HostAlive(host.id))
            if host.state is HostState.ALIVE:
                _seed_what_was_told(cluster, host.id)
        for peer in unfinished(cluster):
            if peer.unfinished and peer.member.host.state is not HostState.SILENT:
                _go_on(cluster, peer, pieces)
        cluster.pass_time(_ROUND_S, step=_ROUND_S)


def _seed_what_was_told(cluster: Cluster, host: str) -> None:
    told, cluster.told[host].seeds = cluster.told[host].seeds, []
    for spec in told:
        task = cluster.core.state.tasks.get(spec.task_id)
        member = task.members.get(host) if task is not None else None
        if member is None or member.peer is None:
            peer_id = f"{int(spec.task_id, 16):016x}{int(host, 16):016x}"
            cluster(PeerRegister(host, peer_id, spec))


def _go_on(cluster: Cluster, peer: Peer, pieces: int) -> None:
    """One round of a download: from the source if it was sent there, else from those it was told of."""
    host, notary = peer.member.host.id, peer.member.task.notary
    if peer.state is PeerState.AT_SOURCE:
        assert peer.id in cluster.told[host].at_source, "it is to go, and does not know"
        if notary.pieces is None:
            _tell_length(cluster, peer, max(pieces, notary.known.bit_length()))
        _take(cluster, peer, notary.everything, "")
    else:
        for parent in list(cluster.told[host].members[peer.member.task.id]):
            if (there := peer.member.task.members.get(parent)) is not None:
                _take(cluster, peer, there.have, parent)
    if peer.unfinished and notary.pieces is not None and peer.member.have == notary.everything:
        cluster(PeerFinished(host, peer.id, Outcome.SUCCEEDED))


def _tell_length(cluster: Cluster, peer: Peer, pieces: int) -> None:
    task = peer.member.task
    piece_bytes = MIB if task.notary.meta is None else task.notary.meta.piece_bytes
    meta = Meta(content_bytes=pieces * piece_bytes, piece_bytes=piece_bytes)
    cluster(TaskMeta(peer.member.host.id, task.id, meta))


def _take(cluster: Cluster, peer: Peer, there: int, parent: str) -> None:
    task = peer.member.task
    new = there & ~peer.member.have
    numbers = [number for number in range(new.bit_length()) if new >> number & 1]
    taken = tuple(
        Piece(number, task.notary.digest_of(number) or digest_of(task.id, number), parent, 20)
        for number in numbers
    )
    if taken:
        cluster(PiecesFinished(peer.member.host.id, peer.id, taken))
