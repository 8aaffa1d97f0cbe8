"""What the parts of jobs come to. Those of a job that has ended stay as they are, and are added up once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cafs.manager.jobs.states import ACTIVE
from cafs.manager.tables import Job, JobTarget

_MOST_KNOWN = 4000
"""More than the jobs that have ended and are kept."""


@dataclass(slots=True)
class Sums:
    """What a job's hosts come to."""

    counts: dict[str, int] = field(default_factory=dict)
    """Hosts, by the state of their part."""
    done_bytes: int = 0
    total_bytes: int = 0
    most_bytes: int = 0
    """That one host has to have, as far as is known."""


class JobSums:
    """A hundred jobs of ten thousand hosts each are looked at every two seconds by who has the list open.

    May be used by several threads at once: they find at most the same.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Sums]] = {}
        """Of jobs that have ended: the job's version, which counts up when it is wanted again."""

    def of(self, session: Session, jobs: Iterable[Job]) -> dict[int, Sums]:
        """By the number of each job; these were read in a transaction that changes none of them."""
        wanted = {job.id: job for job in jobs}
        known = {number: self._known.get(number, (0, Sums())) for number in wanted}
        found = {
            number: sums for number, (version, sums) in known.items() if version == wanted[number].version
        }
        for number, sums in add_up(session, wanted.keys() - found.keys()).items():
            found[number] = sums
            if wanted[number].state not in ACTIVE:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[number] = wanted[number].version, sums
        return found


def add_up(session: Session, job_ids: Collection[int]) -> dict[int, Sums]:
    """By the number of each job, as its parts are now."""
    query = (
        select(
            JobTarget.job_id,
            JobTarget.state,
            func.count(),
            func.sum(JobTarget.done_bytes),
            func.sum(JobTarget.total_bytes),
            func.max(JobTarget.total_bytes),
        )
        .where(JobTarget.job_id.in_(job_ids))
        .group_by(JobTarget.job_id, JobTarget.state)
    )
    found = {job_id: Sums() for job_id in job_ids}
    for job_id, state, count, done, total, most in session.execute(query):
        sums = found[job_id]
        sums.counts[state] = count
        sums.done_bytes += int(done)
        sums.total_bytes += int(total)
        sums.most_bytes = max(sums.most_bytes, int(most))
    return found
