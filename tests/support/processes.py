"""Waiting for the ends of processes that are not children of the tests."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.support.patience import PATIENCE_S


@contextmanager
def all_ended(*pids: int) -> Iterator[None]:
    """Waits at its end for the ends of these processes, of which some may be gone before it begins."""
    with ExitStack() as descriptors:
        ends = []
        for pid in pids:
            with suppress(ProcessLookupError):
                ends.append(os.pidfd_open(pid))
                descriptors.callback(os.close, ends[-1])
        yield
        for end in ends:
            poll = select.poll()
            poll.register(end, select.POLLIN)
            assert poll.poll(PATIENCE_S * 1000), f"of {pids} at least one does not end"
