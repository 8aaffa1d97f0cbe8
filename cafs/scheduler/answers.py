"""What the scheduler answers about itself: lists of tasks and hosts, and why it decided as it did. Pure."""

from __future__ import annotations

from itertools import islice

from cafs.core.scheduling.explain import Decided, Looked
from cafs.core.scheduling.records import Host, Task
from cafs.core.scheduling.score import WEIGHTS
from cafs.core.scheduling.state import State
from cafs.proto import p2p_pb2
from cafs.scheduler.outgoing import encode_spec, host_type

_USUAL, _MOST = 1000, 10_000


def list_tasks(state: State, request: p2p_pb2.ListTasksRequest, now: float) -> p2p_pb2.ListTasksResponse:
    """A page, in the order of task ids."""
    names = sorted(name for name in state.tasks if name > request.after)
    page = names[: min(request.limit or _USUAL, _MOST)]
    tasks = [task_info(state.tasks[name], now) for name in page]
    return p2p_pb2.ListTasksResponse(tasks=tasks, next=page[-1] if len(page) < len(names) else "")


def list_hosts(state: State, request: p2p_pb2.ListHostsRequest, now: float) -> p2p_pb2.ListHostsResponse:
    """A page, in the order of host ids."""
    names = sorted(name for name in state.hosts if name > request.after)
    page = names[: min(request.limit or _USUAL, _MOST)]
    hosts = [_host_info(state, state.hosts[name], now) for name in page]
    return p2p_pb2.ListHostsResponse(hosts=hosts, next=page[-1] if len(page) < len(names) else "")


def explain(state: State, request: p2p_pb2.ExplainRequest, now: float) -> p2p_pb2.ExplainResponse | None:
    """Everything kept about a task or one of its downloads; None: it is not known."""
    task = state.tasks.get(request.task_id)
    if task is None:
        return None
    found = [d for d in task.decided if request.peer_id in {"", d.peer_id}]
    found += state.choices.of(task.id, request.peer_id)
    if request.peer_id and not found and request.peer_id not in state.peers:
        return None
    found.sort(key=lambda decided: decided.at)
    return p2p_pb2.ExplainResponse(
        task=task_info(task, now), decisions=[_explanation(state, decided, now) for decided in found]
    )


def task_info(task: Task, now: float) -> p2p_pb2.TaskInfo:
    """One line of the list."""
    meta, notary = task.notary.meta, task.notary
    return p2p_pb2.TaskInfo(
        spec=encode_spec(task.spec),
        state=task.state.name.lower(),
        content_bytes=-1 if meta is None else meta.content_bytes,
        piece_bytes=0 if meta is None else meta.piece_bytes,
        pieces=notary.pieces or 0,
        digests=notary.known.bit_count(),
        members=len(task.members),
        complete=task.complete,
        downloading=len(task.active),
        at_source=[peer.member.host.id for peer in islice(task.at_source, 16)],
        source_pieces=task.source_pieces,
        swarm_pieces=task.swarm_pieces,
        idle_s=0.0 if task.active else max(0.0, now - task.used_at),
    )


def _host_info(state: State, host: Host, now: float) -> p2p_pb2.HostInfo:
    hello, sentence = host.hello, state.court.sentences.get(host.id)
    return p2p_pb2.HostInfo(
        host_id=host.id,
        hostname=hello.hostname,
        address=hello.address,
        type=host_type(hello.type),
        idc=hello.idc,
        location="|".join(hello.location),
        state=host.state.name.lower(),
        concurrent_upload_limit=host.upload_limit,
        uploads=host.uploads,
        upload_bytes_per_s=host.upload_bytes_per_s,
        tasks=len(host.members),
        piece_ms=host.health.piece_ms,
        failure_rate=host.health.failure,
        shunned_for_s=max(0.0, sentence.until - now) if sentence else 0.0,
        shunned_why=sentence.why if sentence else "",
        silent_s=max(0.0, now - host.seen_at),
        version=hello.version,
    )


def _explanation(state: State, decided: Decided, now: float) -> p2p_pb2.Explanation:
    return p2p_pb2.Explanation(
        ago_s=max(0.0, now - decided.at),
        peer_id=decided.peer_id,
        what=decided.what,
        why=decided.why,
        candidates=[_candidate(state, looked) for looked in decided.seen or ()],
    )


def _candidate(state: State, looked: Looked) -> p2p_pb2.Candidate:
    host = state.hosts.get(looked.host_id)
    parts: list[p2p_pb2.ScorePart] = []
    if looked.scores is not None:
        named = zip(WEIGHTS._fields, looked.scores[1:], strict=True)
        parts = [p2p_pb2.ScorePart(name=name, value=value) for name, value in named]
    return p2p_pb2.Candidate(
        host_id=looked.host_id,
        hostname=host.hello.hostname if host is not None else "",
        score=looked.scores[0] if looked.scores is not None else 0.0,
        parts=parts,
        filtered=looked.filtered,
        chosen=looked.chosen,
    )
