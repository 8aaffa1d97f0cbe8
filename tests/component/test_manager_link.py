"""What a manager that says much, or takes nothing, costs a service: a bounded number of messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.manager_link import ManagerLink, ServiceFacts
from cafs.daemon.manager_stream import MOST_WAITING
from cafs.proto import manager_pb2
from tests.support.logs import ExpectedLogs
from tests.support.manager_client import until
from tests.support.saying_manager import SayingManager, saying_manager

FACTS = ServiceFacts(
    host_id="a" * 32, kind=manager_pb2.PEER, hostname="h", address="127.0.0.1:7000", idc="", location="",
    version="test",
)  # fmt: skip
WELCOME = manager_pb2.ToService(welcome=manager_pb2.Welcome(replica_id="e" * 32, alive_every_ms=1000))
_LOOK_S = 0.3


def linked(
    manager: SayingManager,
    folder: Path,
    hand_over: Callable[[Callable[[], None]], object],
    **hear: Callable[[Any], None],
) -> ManagerLink:
    live = LiveConfiguration(folder / "kept.json", "scheduler", lambda _: None)
    return ManagerLink([manager.address], FACTS, None, live, hand_over, hear=hear, longest_pause_s=0.1)


def test_a_busy_service_hears_no_more_than_it_does(tmp_path: Path) -> None:
    """The rest waits at the manager, and comes in its order."""
    undone: list[Callable[[], None]] = []
    heard: list[int] = []
    with ExitStack() as stack:
        manager = stack.enter_context(saying_manager())
        stack.enter_context(
            linked(manager, tmp_path, undone.append, start_wanted=lambda told: heard.append(told.image[0]))
        )
        until(lambda: manager.streams == 1)
        for number in range(100):
            wanted = manager_pb2.StartWanted(image=bytes([number]))
            manager.say(manager_pb2.ToService(start_wanted=wanted))
        until(lambda: len(undone) >= 32)
        threading.Event().wait(_LOOK_S)  # for what must not come
        assert len(undone) == 32

        def do_some() -> bool:
            while undone:
                undone.pop(0)()
            return len(heard) == 100

        until(do_some)
        assert heard == list(range(100))


def test_a_busy_service_ends_in_time(tmp_path: Path) -> None:
    undone: list[Callable[[], None]] = []
    with saying_manager() as manager:
        with linked(manager, tmp_path, undone.append, start_wanted=lambda _: None):
            until(lambda: manager.streams == 1)
            manager.say(*[manager_pb2.ToService(start_wanted=manager_pb2.StartWanted())] * 100)
            until(lambda: len(undone) >= 32)
        until(lambda: not [each for each in threading.enumerate() if each.name.startswith("manager-")])


def test_a_manager_that_takes_nothing_is_left(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    """What it does not take is not kept without end, and another stream is begun."""
    expected_logs.expect("does not take what is said")
    large = manager_pb2.StartReport(profile=bytes(32 << 10))
    with saying_manager(reads=False) as manager, linked(manager, tmp_path, lambda call: call()) as link:
        until(lambda: manager.streams == 1)
        manager.say(WELCOME)
        until(lambda: link.is_up)
        for _ in range(4 * MOST_WAITING):
            link.say(manager_pb2.FromService(start_report=large))
        until(lambda: manager.streams == 2)
