"""What a host is told to do, from what a job says. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cafs.core.swarm.ids import task_id, tellable_url
from cafs.errors import ProtocolError
from cafs.manager.jobs.states import Progress, Report
from cafs.proto import manager_pb2

MOST_ORDERS = 16
"""That a host is told at once."""
_MOST_JOB, _MOST_ATTEMPT, _WHY_BYTES = (1 << 31) - 1, (1 << 31) - 1, 1000
_MOST_BYTES = 1 << 48
"""Of one host: what 30,000 of them say can be added up in 64 bits. An origin may say any length."""
_RESULT_BYTES, _RESULT_LEVELS = 48 << 10, 16
_PROGRESS = {
    manager_pb2.DOING: Progress.DOING,
    manager_pb2.DONE: Progress.DONE,
    manager_pb2.FAILED: Progress.FAILED,
}


@dataclass(frozen=True, slots=True)
class Order:
    """One job's, for one host."""

    job_id: int
    attempt: int
    kind: str
    spec: Mapping[str, Any]


def orders_message(orders: Iterable[Order]) -> manager_pb2.ToService:
    """All that a host is to do."""
    return manager_pb2.ToService(orders=manager_pb2.Orders(orders=[_message(order) for order in orders]))


def _message(order: Order) -> manager_pb2.Order:
    message = manager_pb2.Order(job_id=order.job_id, attempt=order.attempt)
    match order.kind:
        case "preheat_file":
            message.file.CopyFrom(_file(order.spec))
        case "preheat_image":
            message.image.CopyFrom(_image(order.spec))
        case "delete":
            message.delete.CopyFrom(_delete(order.spec))
        case "sync":
            message.list.CopyFrom(manager_pb2.ListHeld())
        case "gc":
            message.collect.CopyFrom(manager_pb2.CollectGarbage(idle_s=order.spec["idle_s"]))
    return message


def _file(spec: Mapping[str, Any]) -> manager_pb2.PreheatFile:
    return manager_pb2.PreheatFile(
        url=spec["url"],
        digest=spec["digest"] or "",
        tag=spec["tag"],
        application=spec["application"],
        priority=spec["priority"],
        filtered_query=spec["filtered_query"],
        headers=[
            manager_pb2.RequestHeader(name=header["name"], value=header["value"])
            for header in spec["headers"]
        ],
    )


def _image(spec: Mapping[str, Any]) -> manager_pb2.PreheatImage:
    return manager_pb2.PreheatImage(
        image=spec["image"],
        start_only=spec["content"] == "start",
        platforms=spec["platforms"],
        priority=spec["priority"],
    )


def _delete(spec: Mapping[str, Any]) -> manager_pb2.DeleteTasks:
    if spec["task_id"]:
        return manager_pb2.DeleteTasks(task_ids=[spec["task_id"]])
    wish = {name: spec[name] for name in ("tag", "application", "filtered_query")}
    both = [
        task_id(spec["url"], digest=spec["digest"] or "", private=private, **wish)
        for private in (False, True)
    ]
    return manager_pb2.DeleteTasks(
        task_ids=both,
        url=tellable_url(spec["url"], spec["filtered_query"], private=False),
        tag=spec["tag"],
        application=spec["application"],
    )


def parse_order_report(message: manager_pb2.OrderReport) -> tuple[int, Report]:
    """The job that a host reports of, and its word.

    Raises:
        ProtocolError: it is malformed.
    """
    progress = _PROGRESS.get(message.progress)
    if progress is None:
        raise ProtocolError("report: no such progress")
    if message.job_id > _MOST_JOB or message.attempt > _MOST_ATTEMPT:
        raise ProtocolError("report: no such numbers")
    if len(message.why.encode()) > _WHY_BYTES or not message.why.isprintable():
        raise ProtocolError(f"report: why is longer than {_WHY_BYTES} bytes, or not printable")
    return message.job_id, Report(
        attempt=message.attempt,
        progress=progress,
        done_bytes=min(message.done_bytes, _MOST_BYTES),
        total_bytes=min(message.total_bytes, _MOST_BYTES),
        why=message.why,
        result=_result(message.result),
    )


def _result(content: bytes) -> dict[str, Any] | None:
    if not content:
        return None
    try:
        found = json.loads(content) if len(content) <= _RESULT_BYTES else None
        _check_kept(found)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or b"\\u0000" in content:  # NUL, which PostgreSQL's JSON does not hold
        raise ProtocolError(f"report: the result is no object of at most {_RESULT_BYTES} bytes")
    return found


def _check_kept(found: Any) -> None:
    """Raises ValueError where Python reads what PostgreSQL or REST cannot write: 1e999, half a surrogate."""
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    if not _is_shallow(found, _RESULT_LEVELS):
        raise ValueError("too many levels")


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inside)
