"""What grpc's servers say in our logs."""

from __future__ import annotations

import asyncio
import logging

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the class that grpc raises is nowhere else

from cafs.daemon.grpc_server import new_server
from tests.support.logs import ExpectedLogs


async def _make_two() -> None:
    for _ in range(2):
        new_server(1 << 20)


def _fail(error: Exception) -> None:
    try:
        raise error
    except Exception:
        logging.getLogger("grpc._cython.cygrpc").exception("%s raised in core", type(error).__name__)


def test_who_leaves_as_his_call_ends_is_no_error(expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("^ValueError raised in core")
    asyncio.run(_make_two())
    _fail(cygrpc.ExecuteBatchError("Failed"))
    _fail(ValueError("a mistake of ours"))
