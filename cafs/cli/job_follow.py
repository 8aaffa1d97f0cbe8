"""A job's progress as a bar, until it has ended."""

from __future__ import annotations

import time
from typing import Any

from cafs.cli.context import Context
from cafs.cli.manager_rest import ManagerRest
from cafs.core.progress import Progress, Step
from cafs.errors import UnavailableError

_LOOK_EVERY_S = 0.5
_PATIENCE_S = 60.0
"""A manager that is restarted or lacks its database is asked again: the job goes on meanwhile."""
_ACTIVE = frozenset(["pending", "running"])


def follow(context: Context, rest: ManagerRest, job_id: int) -> dict[str, Any]:
    """Show how far it is; returns the job, which has ended. A manager that goes away may come back.

    Raises:
        CafsError: as ``ManagerRest.ask``.
    """
    job: dict[str, Any] = rest.ask("GET", f"/jobs/{job_id}")
    with context.progress() as progress:
        bar = _Bar(progress, job_id)
        bar.show(job)
        while job["state"] in _ACTIVE:
            time.sleep(_LOOK_EVERY_S)
            job = _look_again(rest, job_id)
            bar.show(job)
        bar.finish(job["state"])
    return job


def _look_again(rest: ManagerRest, job_id: int) -> dict[str, Any]:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            job: dict[str, Any] = rest.ask("GET", f"/jobs/{job_id}")
        except UnavailableError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_LOOK_EVERY_S)
        else:
            return job


class _Bar:
    """Of bytes, once a host knows how many it has to have: others will have as many."""

    def __init__(self, progress: Progress, job_id: int) -> None:
        self._progress = progress
        self._job_id = job_id
        self._step: Step | None = None
        self._shown = 0

    def show(self, job: dict[str, Any]) -> None:
        hosts = sum(job["hosts"].values())
        if self._step is None and job["most_bytes"]:
            self._step = self._progress.step(f"job {self._job_id}", hosts * job["most_bytes"])
        if self._step is not None and job["done_bytes"] > self._shown:
            self._step.advance(job["done_bytes"] - self._shown)
            self._shown = job["done_bytes"]

    def finish(self, state: str) -> None:
        if self._step is not None:
            self._step.finish(state)
