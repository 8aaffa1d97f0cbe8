"""The same work in several threads that begin it together, as replicas do that are started at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.patience import PATIENCE_S


def at_once(count: int, work: Callable[[], object]) -> None:
    """Returns when all have done it; raises what the first of them raised."""
    together = threading.Barrier(count)

    def begin() -> None:
        together.wait(PATIENCE_S)
        work()

    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(begin) for _ in range(count)]:
            done.result(PATIENCE_S)
