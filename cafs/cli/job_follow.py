"""A job's progress as a bar, until it has ended."""

from __future__ import annotations

import time
from typing import Any

from cafs.cli.context import Context
from cafs.cli.manager_rest import ManagerRest
from cafs.core.progress import Progress, Step

_LOOK_EVERY_S = 0.5
_ACTIVE = frozenset(["pending", "running"])


def follow(context: Context, rest: ManagerRest, job_id: int) -> dict[str, Any]:
    """Show how far it is; returns the job, which has ended.

    Raises:
        CafsError: as ``ManagerRest.ask``.
    """
    with context.progress() as progress:
        bar = _Bar(progress, job_id)
        while True:
            job: dict[str, Any] = rest.ask("GET", f"/jobs/{job_id}")
            bar.show(job)
            if job["state"] not in _ACTIVE:
                bar.finish(job["state"])
                return job
            time.sleep(_LOOK_EVERY_S)


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
