"""Asks a cluster's schedulers what they know: of tasks, of their swarms, and why they chose as they did.

All of them at once, with one deadline. Waits in its thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from cafs.daemon.grpc_client import LinkTls, open_channel
from cafs.errors import NotFoundError, UnavailableError
from cafs.proto import p2p_pb2
from cafs.proto.services import methods_of

PATIENCE_S = 3.0
MOST_ASKED = 64
_METHODS = {method.name: method for method in methods_of(p2p_pb2.DESCRIPTOR, "Scheduler")}


@dataclass(frozen=True, slots=True)
class Said:
    """By one of them."""

    address: str
    answer: Any
    """None: it does not know what it was asked about, or gave no answer."""
    failure: str
    """Why there is no answer; empty: there is one, if only that it does not know."""


def ask_all(addresses: Sequence[str], tls: LinkTls | None, method: str, request: Message) -> list[Said]:
    """What each says; those that do not answer in time are told as such.

    Raises:
        StorageError: a file of ``tls`` cannot be read.
    """
    asked = _METHODS[method]
    with ExitStack() as stack:
        calls = []
        for address in addresses[:MOST_ASKED]:
            channel = stack.enter_context(open_channel(address, tls))
            call = channel.unary_unary(asked.path, asked.serialize_request, asked.parse_response)
            calls.append((address, call.future(request, timeout=PATIENCE_S)))
        return [_said(address, call) for address, call in calls]


def _said(address: str, call: Any) -> Said:
    try:
        return Said(address, call.result(), "")
    except grpc.RpcError as e:
        code = e.code() if isinstance(e, grpc.Call) else grpc.StatusCode.UNKNOWN
        known = code is grpc.StatusCode.NOT_FOUND
        return Said(address, None, "" if known else code.name.lower().replace("_", " "))


def ask_who_knows(addresses: Sequence[str], tls: LinkTls | None, method: str, request: Any) -> Any:
    """The answer about a task, of the scheduler in which most hosts have to do with it.

    Raises:
        NotFoundError: none knows it.
        UnavailableError: none answers that might.
    """
    told = ask_all(addresses, tls, method, request)
    found = [said.answer for said in told if said.answer is not None]
    if found:
        return max(found, key=lambda answer: answer.task.members)
    if silent := [f"{said.address} ({said.failure})" for said in told if said.failure]:
        raise UnavailableError(f"schedulers do not answer: {', '.join(silent[:3])}")
    raise NotFoundError("no scheduler of this cluster knows such a task")
