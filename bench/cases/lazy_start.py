"""Start of a Python program from a registry behind a slow link: lazily, and by pull, unpack, run."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import interleave, median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.cafs_command import CafsHome
from demo.image import compressed_bytes, debian_python
from demo.link import Link, open_link
from demo.registry import Registry, serve_far_registry
from demo.start import SERVER, Start, start_eagerly, start_lazily

MBIT_PER_S = 200
PLAIN, PROFILED = "bench/python:v1", "bench/profiled:v1"
TIMES_FASTER = 5.0
BYTES_RATIO = 1.5
COUNTERS_REST_S = 2.5

LAZY, WITH_PROFILE, PULL = "cafs", "cafs with a profile", "pull, unpack, run"
Counted = dict[str, list[tuple[int, int]]]


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    with open_link(MBIT_PER_S) as link:
        starts, counted = compare_starts(place, link, layout)
    return _judge(starts, counted, compressed_bytes(layout, "v1"))


def compare_starts(place: Place, link: Link, layout: Path) -> tuple[dict[str, list[Start]], Counted]:
    """Starts of each contender over this link in turns, and what ours fetched and touched, by repository."""
    counted: Counted = {PLAIN: [], PROFILED: []}
    with serve_far_registry(place.path, link) as registry:
        for repository in (PLAIN, PROFILED):
            registry.push(layout, "v1", repository)
            near = CafsHome(place.path / "near", registry.enter, (registry.local,))
            near.call("convert", f"docker://{registry.local}/{repository}")
        far = CafsHome(place.path / "far", tuple(link.on_client()), (SERVER,))
        _attach_profile(place, far, link, registry)
        turns = {
            LAZY: partial(_lazily, place, far, link, PLAIN, counted),
            WITH_PROFILE: partial(_lazily, place, far, link, PROFILED, counted),
            PULL: partial(start_eagerly, link, PLAIN, place.path / "eager"),
        }
        return interleave(turns, place.rounds), counted


def _attach_profile(place: Place, far: CafsHome, link: Link, registry: Registry) -> None:
    """Record one start and attach it to the image in the repository ``PROFILED``."""
    profile = place.path / "profile"
    start_lazily(far, link, PROFILED, ("--record", str(profile)))
    near = CafsHome(place.path / "near", registry.enter, (registry.local,))
    near.call("profile", "push", profile, f"docker://{registry.local}/{PROFILED}")


def _lazily(place: Place, far: CafsHome, link: Link, repository: str, counted: Counted) -> Start:
    start = start_lazily(far, link, repository, observe=lambda: counted[repository].append(_count(far)))
    place.say(f"{repository}: {start}, fetched and touched {counted[repository][-1]}")
    return start


def _count(home: CafsHome) -> tuple[int, int]:
    """Chunk bytes fetched, and compressed bytes of the chunks that were read, by the mount of ``home``.

    The server writes its counters now and then: they are taken once they rest.
    """
    before: dict[str, Any] = {}
    stats = home.stats()
    while before != stats:
        before = stats
        time.sleep(COUNTERS_REST_S)
        stats = home.stats()
    return int(stats["fetched_bytes"]), int(stats["touched_frame_bytes"])


def _judge(starts: dict[str, list[Start]], counted: Counted, image_bytes: int) -> Result:
    seconds = {who: [start.seconds for start in taken] for who, taken in starts.items()}
    received = median([float(start.received_bytes) for start in starts[LAZY]])
    ready = median([start.ready_s for start in starts[LAZY]])
    names = ((LAZY, PLAIN, ""), (WITH_PROFILE, PROFILED, ", with a profile"))
    rows = [
        _speed_row(f"from nothing to the answer{more}", seconds[who], seconds[PULL]) for who, _, more in names
    ]
    rows += [_bytes_row(f"chunk bytes fetched{more}", counted[repository]) for _, repository, more in names]
    return Result(
        "lazy_start",
        f"Start of a program over {MBIT_PER_S} Mbit/s",
        f"The demo: an image of {image_bytes / 1e6:.1f} MB in a real docker-registry; the program imports"
        " numpy and answers. Everything is cold on both sides: page cache dropped, no index, no chunk."
        " The rival is `skopeo copy`, `umoci raw unpack`, the same chroot. *With a profile*: an earlier"
        " start was recorded and attached (`cafs profile push`). Without one, `cafs mount` returned after"
        f" {ready:.2f} s, and the client received {received / 1e6:.1f} MB in all until the answer"
        " (manifests, indexes, chunks, headers).",
        tuple(rows),
        seconds,
    )


def _speed_row(what: str, ours: list[float], theirs: list[float]) -> Row:
    times = median(theirs) / median(ours)
    return Row(
        what,
        format_seconds(ours),
        f"{PULL} {format_seconds(theirs)}",
        f"{times:.1f} times faster",
        f"at least {TIMES_FASTER:.0f} times",
        times >= TIMES_FASTER,
    )


def _bytes_row(what: str, counted: list[tuple[int, int]]) -> Row:
    fetched = median([float(one) for one, _ in counted])
    touched = median([float(two) for _, two in counted])
    return Row(
        what,
        f"{fetched / 1e6:.2f} MB",
        f"compressed bytes of the chunks read {touched / 1e6:.2f} MB",
        f"{fetched / touched:.2f}",
        f"at most {BYTES_RATIO}",
        fetched <= BYTES_RATIO * touched,
    )
