"""A job and its hosts' parts, whatever hosts and people do in whatever order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cafs.errors import StateError
from cafs.manager.jobs.choosing import Choice, choose
from cafs.manager.jobs.states import (
    ACTIVE,
    OPEN,
    JobState,
    Part,
    PartState,
    Progress,
    Report,
    Seen,
    cancelled,
    next_step,
    reported,
    retried,
    told,
)

HOSTS = st.integers(0, 5)


class Jobs(RuleBasedStateMachine):
    """One job of six hosts, kept in memory as the manager keeps it in tables."""

    @initialize(concurrency=st.integers(1, 4), retries=st.integers(0, 2), here=st.sets(HOSTS))
    def begin(self, concurrency: int, retries: int, here: set[int]) -> None:
        self.state = JobState.RUNNING
        self.parts = [Part() for _ in range(6)]
        self.concurrency, self.retries, self.here = concurrency, retries, here
        self.came_back = 0
        self.end_with = PartState.FAILED

    def count(self, *states: PartState, here: bool = False) -> int:
        return sum(
            part.state in states and (not here or host in self.here) for host, part in enumerate(self.parts)
        )

    def end(self, state: JobState, parts: PartState) -> None:
        self.state = state
        self.parts = [Part(state=parts) if part.state in OPEN else part for part in self.parts]

    @rule(late=st.booleans())
    def step(self, late: bool) -> None:
        if self.state is not JobState.RUNNING:
            return
        seen = Seen(
            open=self.count(*OPEN),
            waiting_here=self.count(PartState.WAITING, here=True),
            told_here=self.count(PartState.TOLD, here=True),
            done=self.count(PartState.SUCCEEDED),
            total=len(self.parts),
            concurrency=self.concurrency,
            late=late,
        )
        step = next_step(seen)
        waiting = [h for h in sorted(self.here) if self.parts[h].state is PartState.WAITING]
        assert step.release <= len(waiting)
        for host in waiting[: step.release]:
            self.parts[host] = told(self.parts[host])
        if step.release:
            assert self.count(PartState.TOLD, here=True) <= self.concurrency
        if step.ends is not None:
            assert step.release == 0
            assert step.give_up == bool(seen.open)
            self.end(step.ends, PartState.FAILED)
        elif not late:
            # It never stands still: somebody is at it, or all that is left waits for hosts that are away.
            left = self.count(PartState.WAITING, here=True)
            assert left == 0 or self.count(PartState.TOLD, here=True) >= self.concurrency

    @rule(host=HOSTS, progress=st.sampled_from(Progress), behind=st.integers(0, 1))
    def report(self, host: int, progress: Progress, behind: int) -> None:
        before = self.parts[host]
        word = Report(attempt=before.attempt - behind, progress=progress)
        after = self.parts[host] = reported(before, word, self.retries)
        if behind or before.state is not PartState.TOLD or progress is Progress.DOING:
            assert after == before
        elif progress is Progress.DONE:
            assert after.state is PartState.SUCCEEDED
        else:
            assert (after.state is PartState.FAILED) == (after.failures > self.retries)

    @rule(host=HOSTS)
    def come_or_go(self, host: int) -> None:
        self.here ^= {host}

    @rule()
    def cancel(self) -> None:
        if self.state in ACTIVE:
            self.end(cancelled(self.state), PartState.CANCELLED)
        else:
            with pytest.raises(StateError):
                cancelled(self.state)

    @rule()
    def retry(self) -> None:
        if self.state in {JobState.FAILED, JobState.CANCELLED}:
            self.state = retried(self.state, chosen=True)
            self.parts = [
                part if part.state is PartState.SUCCEEDED else Part(attempt=part.attempt)
                for part in self.parts
            ]
        else:
            with pytest.raises(StateError):
                retried(self.state, chosen=True)

    @invariant()
    def nothing_is_open_in_what_has_ended(self) -> None:
        if not hasattr(self, "state"):
            return
        if self.state not in ACTIVE:
            assert self.count(*OPEN) == 0
        if self.state is JobState.SUCCEEDED:
            assert self.count(PartState.SUCCEEDED) == len(self.parts)
        assert all(part.failures <= self.retries + 1 for part in self.parts)


class TestJobs(Jobs.TestCase):
    """Run by pytest."""

    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_job_of_hosts_that_all_do_it_succeeds() -> None:
    seen = Seen(open=0, waiting_here=0, told_here=0, done=3, total=3, concurrency=1, late=True)
    assert next_step(seen).ends is JobState.SUCCEEDED


def test_one_without_chosen_hosts_chooses_anew() -> None:
    assert retried(JobState.FAILED, chosen=False) is JobState.PENDING


FLEET = [Choice(f"{n:032x}", f"h{n}", n % 3 > 0) for n in range(30)]


def test_all_are_those_that_are_here() -> None:
    assert choose(FLEET, {"hosts": "all"}, "x") == [host for host in FLEET if host.active]


def test_a_larger_share_has_all_of_a_smaller_one() -> None:
    shares = [
        {host.id for host in choose(FLEET, {"hosts": "percent", "percent": percent}, "x")}
        for percent in (1, 10, 50, 99, 100)
    ]
    assert [len(share) for share in shares] == [1, 2, 10, 20, 20]
    assert all(less <= more for less, more in pairwise(shares))


def test_one_is_another_for_another_content() -> None:
    chosen = {choose(FLEET, {"hosts": "one"}, f"content {n}")[0].id for n in range(50)}
    assert len(chosen) > 5
    assert choose(FLEET, {"hosts": "one"}, "x") == choose(reversed(FLEET), {"hosts": "one"}, "x")
    assert choose([], {"hosts": "one"}, "x") == []


def test_named_ones_need_not_be_here() -> None:
    scope = {"hosts": "named", "names": ["h0", FLEET[1].id]}
    assert [host.hostname for host in choose(FLEET, scope, "x")] == ["h0", "h1"]
