"""The start of ``lazy_start`` from a registry that is far away: what waiting for answers costs."""

from __future__ import annotations

from bench.cases.lazy_start import LAZY, MBIT_PER_S, PLAIN, PROFILED, PULL, WITH_PROFILE, compare_starts
from bench.far_link import open_far_link
from bench.measure import median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.image import debian_python

ROUND_TRIP_S = 0.02


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    with open_far_link(MBIT_PER_S, ROUND_TRIP_S) as link:
        starts, counted = compare_starts(place, link, layout)
    seconds = {who: [start.seconds for start in taken] for who, taken in starts.items()}
    theirs = seconds[PULL]
    rows = []
    for who, repository, more in ((LAZY, PLAIN, ""), (WITH_PROFILE, PROFILED, ", with a profile")):
        fetched, touched = (median([float(pair[n]) for pair in counted[repository]]) for n in (0, 1))
        times = median(theirs) / median(seconds[who])
        rows += [
            Row(
                f"from nothing to the answer{more}",
                format_seconds(seconds[who]),
                f"{PULL} {format_seconds(theirs)}",
                f"{times:.1f} times faster",
                "",
                None,
            ),
            Row(
                f"chunk bytes fetched{more}",
                f"{fetched / 1e6:.2f} MB",
                f"compressed bytes of the chunks read {touched / 1e6:.2f} MB",
                f"{fetched / touched:.2f}",
                "",
                None,
            ),
        ]
    return Result(
        "far_start",
        f"Start of a program over {MBIT_PER_S} Mbit/s, {ROUND_TRIP_S * 1000:.0f} ms away",
        "The image, the program and the rival of the first table, but each packet is"
        f" {ROUND_TRIP_S * 500:.0f} ms under way (packets of 9,000 bytes): a registry in another region. No"
        " promise was made for it. Riders are more here, see docs/read-path.md.",
        tuple(rows),
        seconds,
    )
