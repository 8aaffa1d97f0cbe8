"""Asking the schedulers why a task goes as it goes. Waits in its thread; used by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from cafs.core.settings import Settings
from cafs.errors import CafsError, NotFoundError, StateError, UsageError
from cafs.p2p.named_schedulers import known_schedulers
from cafs.proto import p2p_pb2


def explain_task(settings: Settings, task: str, peer: str) -> tuple[dict[str, Any], str]:
    """What some scheduler knows of it: for machines and for people.

    Raises:
        UsageError: no scheduler is configured.
        NotFoundError: none of them knows it.
        RemoteError: none answers.
    """
    schedulers = known_schedulers(settings)
    if not schedulers:
        raise UsageError("no scheduler is configured, and no manager has named any: set schedulers")
    try:
        from cafs.daemon.grpc_client import LinkTls  # noqa: PLC0415
        from cafs.p2p.scheduler_link import ask_scheduler  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    files = settings.peer_certificate, settings.peer_key, settings.peer_ca
    tls = LinkTls(*map(Path, files)) if all(files) else None
    request = p2p_pb2.ExplainRequest(task_id=task, peer_id=peer)
    failure: CafsError = NotFoundError("no scheduler knows it")
    for address in schedulers:
        try:
            found = ask_scheduler(address, tls, "Explain", request)
        except CafsError as e:
            failure = e
        else:
            return MessageToDict(found, preserving_proto_field_name=True), _text(found)
    raise failure


def _text(found: p2p_pb2.ExplainResponse) -> str:
    task = found.task
    pieces = task.pieces or "?"
    lines = [
        f"{task.spec.url or task.spec.digest}: {task.state},"
        f" {task.members} hosts, {task.complete} of them have all",
        f"{task.source_pieces} pieces came from the source, {task.swarm_pieces} from hosts;"
        f" {pieces} are one copy",
        *(line for decision in found.decisions for line in _decision(decision)),
    ]
    return "\n".join(lines)


def _decision(decision: p2p_pb2.Explanation) -> list[str]:
    who = f" of {decision.peer_id[:12]}" if decision.peer_id else ""
    lines = [f"{decision.ago_s:7.1f} s ago  {decision.what}{who}: {decision.why}"]
    for candidate in decision.candidates:
        name = candidate.hostname or candidate.host_id[:12]
        if candidate.filtered and not candidate.chosen:
            lines.append(f"{'':15}- {name}: {candidate.filtered}")
            continue
        parts = " ".join(f"{part.name} {part.value:.2f}" for part in candidate.parts if part.value)
        lines.append(
            f"{'':15}{'+' if candidate.chosen else ' '} {name} {candidate.score:.2f}  {parts}".rstrip()
        )
    return lines
