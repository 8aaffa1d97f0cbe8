"""What services tell of their figures: each thing once, whatever is lost; and what is reckoned from it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.statistics.amounts import (
    AMOUNTS,
    FIRST_BYTE_BOUNDS_MS,
    LEVELS,
    MOST_AMOUNT,
    first_byte,
    first_byte_quantile_ms,
    hit_ratio,
    since,
)
from cafs.core.statistics.ledger import LONGEST_S, Ledger, Report
from cafs.core.statistics.shares import MOST_KEPT, MOST_TOLD, Shares
from cafs.daemon.reporting import encode_report
from cafs.errors import ProtocolError
from cafs.manager.statistics.incoming import parse_figures, rest_of
from cafs.manager.statistics.keeping import GRAINS, Of, grain_for
from cafs.manager.statistics.metrics import Metric, columns_of
from cafs.manager.statistics.rows import COLUMNS, Arrived, sums_of
from cafs.proto import manager_pb2
from tests.support.fuzzing import fuzzed, mutated

LIFE = "0123456789abcdef" * 2


@dataclass
class Service:
    """One that counts, and a manager that counts what it hears."""

    counts: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    known: tuple[str, int] = ("", 0)
    now: float = 0.0
    lives: int = 0

    def __post_init__(self) -> None:
        self.begin(None)

    def begin(self, kept: Any) -> None:
        self.lives += 1
        self.counts = Counter()
        self.ledger = Ledger(f"{self.lives:032x}", lambda: self.counts)
        if kept is not None:
            self.ledger.recall(json.loads(json.dumps(kept)))

    def hear(self, report: Report) -> None:
        """As the manager does; see ``manager.statistics.writing``."""
        told = parse_figures(encode_report(report).report)
        if told.life == self.known[0] and told.number <= self.known[1]:
            return
        self.heard.update({name: count for name, count in zip(AMOUNTS, told.all, strict=True) if count})
        self.known = told.life, told.number


STEPS = ["count", "lose", "hear", "answer", "restart", "wait", "stream"]


@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_whatever_is_lost_each_thing_is_counted_once(steps: list[str]) -> None:
    """Messages and answers are lost, streams break, the service restarts in order: in the end all is here."""
    service, all_of_it = Service(), Counter[str]()
    last: Report | None = None
    for step in [*steps, "stream", "hear", "answer", "stream", "hear"]:
        match step:
            case "count":
                service.counts["peer_bytes"] += 7
                service.counts["downloads_failed"] += 1
                all_of_it.update({"peer_bytes": 7, "downloads_failed": 1})
            case "lose" | "hear":
                last = service.ledger.due(service.now) or last
                if step == "hear" and last is not None:
                    service.hear(last)
            case "answer" if last is not None and (last.life, last.number) == service.known:
                service.ledger.counted(last.life, last.number, 5.0, service.now)
            case "restart":
                service.begin(service.ledger.kept())
            case "wait":
                service.now += 60
            case "stream":
                service.ledger.on_stream()
    assert service.heard == all_of_it


def test_an_idle_service_says_nothing_and_an_old_manager_is_asked_less_and_less() -> None:
    counts = Counter[str]()
    ledger = Ledger(LIFE, lambda: counts)
    assert ledger.due(0.0) is None
    assert ledger.due_in(0.0) > 0
    counts["requests"] = 1
    said = [now for now in range(1, 3000) if ledger.due(now) is not None]
    gaps = [later - earlier for earlier, later in pairwise(said)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= LONGEST_S
    counts["requests"] = 3
    ledger.counted(LIFE, 1, 10.0, 3000.0)
    assert ledger.due(3009.0) is None
    report = ledger.due(3010.0)
    assert report is not None
    assert (report.number, report.amounts) == (2, Counter(requests=2))


def test_levels_are_told_when_they_change() -> None:
    levels = {"tasks": 1}
    ledger = Ledger(LIFE, dict, lambda: levels)
    first = ledger.due(0.0)
    assert first is not None
    ledger.counted(LIFE, 1, 5.0, 1.0)
    assert ledger.due(100.0) is None
    levels = {"tasks": 2}
    second = ledger.due(200.0)
    assert second is not None
    assert second.levels == {"tasks": 2}


def test_more_than_fits_into_one_report_comes_with_the_next() -> None:
    counts = Counter(peer_bytes=3 * MOST_AMOUNT // 2)
    ledger = Ledger(LIFE, lambda: counts)
    first = ledger.due(0.0)
    ledger.counted(LIFE, 1, 5.0, 0.0)
    second = ledger.due(100.0)
    assert first is not None
    assert second is not None
    assert [first.amounts["peer_bytes"], second.amounts["peer_bytes"]] == [MOST_AMOUNT, MOST_AMOUNT // 2]


REST = {"life": LIFE, "number": 1, "rest": {}, "waiting": None}
WAITING = {"number": 1, "amounts": {}, "tasks": {}, "applications": {}}


@pytest.mark.parametrize(
    "kept",
    [
        None, [], {}, "x", {"life": LIFE}, {**REST, "life": "x"}, {**REST, "number": -1},
        {**REST, "rest": {"nonsense": 1}}, {**REST, "rest": {"requests": 1.5}}, {**REST, "rest": []},
        {**REST, "waiting": {**WAITING, "number": 2}}, {**REST, "waiting": {}},
        {**REST, "waiting": {**WAITING, "tasks": {"x" * 256: {}}}},
        {**REST, "waiting": {**WAITING, "tasks": []}},
    ],
)  # fmt: skip
def test_what_was_not_kept_by_us_is_refused(kept: Any) -> None:
    ledger = Ledger(LIFE, lambda: {"requests": 1})
    with pytest.raises(ValueError, match=r"none|missing|long"):
        ledger.recall(kept)
    report = ledger.due(0.0)
    assert report is not None
    assert (report.life, report.number) == (LIFE, 1)


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 99)))
def test_what_was_added_is_never_negative(before: dict[str, int]) -> None:
    now = {"a": 5, "b": 50}
    added = since(now, before)
    assert all(0 < count <= now[name] for name, count in added.items())


def test_shares_are_bounded_and_keep_what_is_large() -> None:
    shares = Shares()
    for number in range(10 * MOST_KEPT):
        shares.note(f"{number}", f"app{number % 3}", peer_bytes=number, pieces_succeeded=1)
    tasks, applications = shares.take()
    assert list(tasks) == [
        f"{number}" for number in reversed(range(10 * MOST_KEPT - MOST_TOLD, 10 * MOST_KEPT))
    ]
    assert set(applications) == {"app0", "app1", "app2"}
    assert shares.take() == ({}, {})


@given(
    st.dictionaries(st.sampled_from(AMOUNTS), st.integers(1, MOST_AMOUNT)), st.lists(st.text(), max_size=3)
)
def test_a_report_is_heard_as_it_was_said(amounts: dict[str, int], names: list[str]) -> None:
    told = {name for name in names if name and name.isprintable() and len(name.encode()) < 256}
    parts = {name: Counter(amounts) for name in told}
    levels = dict.fromkeys(LEVELS, 3)
    report = Report(life=LIFE, number=1, amounts=Counter(amounts), tasks=parts, levels=levels)
    heard = parse_figures(
        manager_pb2.FromService.FromString(encode_report(report).SerializeToString()).report
    )
    said = tuple(amounts.get(name, 0) for name in AMOUNTS)
    assert (heard.all, heard.tasks, heard.levels) == (said, dict.fromkeys(parts, said), (3,) * len(LEVELS))


REPORT = Report(
    life=LIFE,
    number=3,
    amounts=Counter(peer_bytes=5, first_bytes=1),
    tasks={"a" * 64: Counter(peer_bytes=3)},
    applications={"models": Counter(peer_bytes=2)},
    levels={"tasks": 2},
)


@fuzzed(150)
@given(mutated([encode_report(REPORT).SerializeToString()]))
def test_damaged_reports_are_refused_or_can_be_kept(data: bytes) -> None:
    with suppress(DecodeError, ProtocolError):
        told = parse_figures(manager_pb2.FromService.FromString(data).report)
        rows = [
            dict(zip(COLUMNS, row, strict=True))
            for row in sums_of([Arrived("a" * 32, 1, told)], 10**9).rows()
        ]
        assert all(0 <= row[name] <= MOST_AMOUNT for row in rows for name in AMOUNTS)
        assert all(len(row["subject"]) <= 255 and row["subject"].isprintable() for row in rows)


def test_the_rest_is_what_parts_leave_over() -> None:
    assert rest_of((5, 1, 0), [(2, 0, 0), (1, 0, 4)]) == (2, 1, 0)
    assert rest_of((5,), [(9,)]) == (0,)
    assert rest_of((5,), []) == (5,)


def test_every_name_is_a_field_and_every_amount_can_be_asked_for() -> None:
    assert tuple(manager_pb2.Counts.DESCRIPTOR.fields_by_name) == AMOUNTS
    assert tuple(manager_pb2.Levels.DESCRIPTOR.fields_by_name) == LEVELS
    amounts, levels = columns_of(Metric)
    assert (amounts, levels) == (list(AMOUNTS), list(LEVELS))


def test_the_hit_ratio_is_the_share_that_no_origin_gave() -> None:
    assert hit_ratio({}) is None
    assert hit_ratio({"origin_bytes": 1, "seed_bytes": 1, "peer_bytes": 1, "local_bytes": 1}) == 0.75


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_are_right_within_their_bounds(waits: list[int], share: float) -> None:
    amounts = Counter[str]()
    for wait in waits:
        amounts.update(first_byte(wait))
    told = first_byte_quantile_ms(amounts, share)
    assert told is not None
    exact = sorted(waits)[min(len(waits) - 1, int(-(-share * len(waits) // 1)) - 1)]
    bounds = [0, *FIRST_BYTE_BOUNDS_MS, float("inf")]
    place = next(n for n, bound in enumerate(bounds[1:]) if exact <= bound)
    assert bounds[place] <= told <= min(bounds[place + 1], FIRST_BYTE_BOUNDS_MS[-1])


@given(st.sampled_from(Of), st.integers(0, 400 * 86_400), st.integers(1, 90_000))
def test_answers_come_from_what_is_still_kept(of: Of, ago: int, step_s: int) -> None:
    now = 10**9
    grain = grain_for(of, now - ago, step_s, now)
    assert ago <= grain.kept_s + 60 or grain is GRAINS[of][-1]
    finer = [each for each in GRAINS[of] if each.resolution_s < grain.resolution_s]
    assert grain.resolution_s <= step_s or all(ago > each.kept_s for each in finer)


@pytest.mark.parametrize(
    ("of", "hours", "resolution_s"),
    [(Of.CLUSTER, 2, 10), (Of.CLUSTER, 24, 60), (Of.HOST, 2, 60), (Of.APPLICATION, 24, 60)],
)
def test_a_question_that_takes_a_moment_to_come_is_answered_as_finely(
    of: Of, hours: int, resolution_s: int
) -> None:
    begin = 10**9
    for took_s in (0, 1, 5):
        now = begin + hours * 3600 + took_s
        assert grain_for(of, begin, resolution_s, now).resolution_s == resolution_s
