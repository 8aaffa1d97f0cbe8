"""A task's swarm as it is now: its hosts, and who fed whom. Pure."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from cafs.core.scheduling.feeds import Fed
from cafs.core.scheduling.records import Member, Task
from cafs.core.scheduling.state import State
from cafs.proto import p2p_pb2
from cafs.scheduler.answers import task_info
from cafs.scheduler.outgoing import host_type

_USUAL, _MOST = 200, 2000
_USUAL_PIECE_BYTES = 1 << 20


def show_swarm(state: State, request: p2p_pb2.SwarmRequest, now: float) -> p2p_pb2.SwarmResponse | None:
    """As many hosts as are asked for, those that give and get most first; None: no such task is known."""
    task = state.tasks.get(request.task_id)
    if task is None:
        return None
    feeds = [fed for fed in state.feeds.of(task.id, now) if fed.child in task.members]
    members = _busiest(task, feeds, min(request.limit or _USUAL, _MOST))
    shown = {"", *(member.host.id for member in members)}
    piece_bytes = task.notary.meta.piece_bytes if task.notary.meta is not None else _USUAL_PIECE_BYTES
    return p2p_pb2.SwarmResponse(
        task=task_info(task, now),
        hosts=[_host(member) for member in members],
        feeds=[
            p2p_pb2.Feed(
                parent_host_id=fed.parent,
                child_host_id=fed.child,
                pieces=fed.pieces,
                bytes_per_s=fed.pieces_per_s * piece_bytes,
            )
            for fed in feeds
            if fed.parent in shown and fed.child in shown
        ],
    )


def _busiest(task: Task, feeds: list[Fed], most: int) -> list[Member]:
    moved: Counter[str] = Counter()
    for fed in feeds:
        moved[fed.parent] += fed.pieces
        moved[fed.child] += fed.pieces
    named = [host_id for host_id, _ in moved.most_common() if host_id in task.members]
    chosen = dict.fromkeys(named[:most])
    others = (host_id for host_id in task.members if host_id not in moved)
    chosen.update(dict.fromkeys(islice(others, most - len(chosen))))
    return [task.members[host_id] for host_id in chosen]


def _host(member: Member) -> p2p_pb2.SwarmHost:
    return p2p_pb2.SwarmHost(
        host_id=member.host.id,
        hostname=member.host.hello.hostname,
        type=host_type(member.host.hello.type),
        pieces=member.have.bit_count(),
        complete=member.complete,
        downloading=member.peer is not None and member.peer.unfinished,
        at_source=member.at_source,
    )
