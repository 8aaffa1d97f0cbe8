"""Events a second and the slowest decisions of the scheduler's core, with 10,000 hosts and 1,000 tasks."""

from __future__ import annotations

from bench.measure import median
from bench.place import Place
from bench.report import Result, Row
from bench.swarm.load import Load, measure

_LEAST_PER_S = 30_000
_MOST_P99_MS = 5.0


def run_case(place: Place) -> Result:
    load = Load()
    found = []
    for number in range(place.rounds):
        found.append(measure(load, seed=number + 1))
        place.say(f"{found[-1].events} events, {found[-1].events_per_s:,.0f} a second of CPU time")
    per_s = [one.events_per_s for one in found]
    p99_ms = [one.p99_s * 1e3 for one in found]
    choice_ms = [one.choice_p99_s * 1e3 for one in found]
    rate, late, choice = median(per_s), median(p99_ms), median(choice_ms)
    return Result(
        "scheduler_core",
        "The scheduler's core",
        f"{load.hosts:,} hosts and {load.tasks:,} tasks; {load.downloads:,} downloads of {load.pieces}"
        f" pieces, {load.under_way:,} of them at a time, that register, report four pieces at once, and end,"
        " among hosts that say they are alive, leave and come back. One process, no gRPC; the rate is by CPU"
        " time, p99 by the wall clock. A download that registers is told of up to 48 hosts, out of 48 that"
        " were drawn and scored: the dearest event.",
        (
            Row(
                "events a second, one core",
                f"{rate:,.0f}",
                "",
                "",
                f"at least {_LEAST_PER_S:,}",
                rate >= _LEAST_PER_S,
            ),
            Row(
                "p99 of an event", f"{late:.2f} ms", "", "", f"under {_MOST_P99_MS:g} ms", late < _MOST_P99_MS
            ),
            Row(
                "p99 of a choice of parents",
                f"{choice:.2f} ms",
                "",
                "",
                f"under {_MOST_P99_MS:g} ms",
                choice < _MOST_P99_MS,
            ),
            Row(
                "median of an event", f"{median([one.p50_s * 1e6 for one in found]):.0f} µs", "", "", "", None
            ),
        ),
        {"events_per_s": per_s, "p99_ms": p99_ms, "choice_p99_ms": choice_ms},
    )
