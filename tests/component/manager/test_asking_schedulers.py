"""Questions that REST passes on to schedulers: those that hang keep nobody else waiting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from anyio.to_thread import current_default_thread_limiter

from cafs.errors import UnavailableError
from cafs.manager.schedulers import AT_ONCE, Schedulers
from cafs.proto import manager_pb2, p2p_pb2
from tests.support.asyncio_thread import run_asyncio
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.patience import PATIENCE_S

_THREADS = 4


class Hanging:
    """A scheduler that lets everybody in and says nothing, until it hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.came: list[socket.socket] = []
        self._accepting = Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self.came.append(self._listener.accept()[0])

    def hang_up(self) -> None:
        """Whoever comes from now on is refused."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_S)
        self._listener.close()
        for each in self.came:
            each.close()


@contextmanager
def hanging() -> Iterator[Hanging]:
    scheduler = Hanging()
    try:
        yield scheduler
    finally:
        scheduler.hang_up()


def give_threads(manager: Manager, count: int) -> None:
    """That routes and dependencies run in; more than one each could take would hide who holds one."""

    async def give() -> None:
        current_default_thread_limiter().total_tokens = count

    asyncio.run_coroutine_threadsafe(give(), manager.loop).result(PATIENCE_S)


def test_schedulers_that_hang_hold_no_thread_of_other_routes(tmp_path: Path) -> None:
    options = options_for(tmp_path, scheduler_patience_s=PATIENCE_S)
    with (
        running_manager(options) as manager,
        hanging() as scheduler,
        channel_to(manager.ports.services) as channel,
        ThreadPoolExecutor(AT_ONCE + 8) as people,
    ):
        admin = manager.administrator()
        stream = ServiceStream(channel)
        stream.hello(kind=manager_pb2.SCHEDULER, address=scheduler.address)
        give_threads(manager, _THREADS)
        asked = [people.submit(manager.call, "GET", "/clusters/1/tasks", admin) for _ in range(AT_ONCE + 8)]
        until(lambda: len(scheduler.came) >= AT_ONCE or any(question.done() for question in asked))
        for _ in range(_THREADS + 1):
            assert manager.call("GET", "/clusters", admin)
        scheduler.hang_up()
        told = [question.result(PATIENCE_S) for question in asked]
        assert [one["silent"] for one in told] == [{scheduler.address: "unavailable"}] * len(told)
        stream.cancel()


def test_a_question_that_has_no_turn_in_time_is_refused() -> None:
    async def main() -> None:
        schedulers = Schedulers(None, patience_s=0.01, at_once=0)
        with pytest.raises(UnavailableError, match="too many questions"):
            await schedulers.ask_all(["127.0.0.1:1"], "ListTasks", p2p_pb2.ListTasksRequest())

    run_asyncio(main)
