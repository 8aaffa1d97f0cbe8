"""Containers on a cold node behind a slow link until they are ready, against overlayfs and their limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.containers.record import record_profile
from bench.containers.start import Start, started
from bench.images.recipes import SET, Recipe, container_images, database
from bench.measure import interleave, median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.cafs_command import CafsHome
from demo.cold import drop_caches
from demo.image import compressed_bytes
from demo.link import Link, open_link
from demo.node import CAFS, OVERLAYFS, Counted, Node, cold_node
from demo.registry import serve_far_registry

MBIT_PER_S = 200
LINK_BYTES_PER_S = MBIT_PER_S * 1_000_000 / 8
TIMES_FASTER, TIMES_FASTER_PROFILED, TIMES_FASTER_LITTLE = 6.0, 7.5, 40.0
LIMIT_RATIO = 1.5
BYTES_RATIO = 1.3
FURTHER = 3
PROFILED = "cafs with a profile"


@dataclass(frozen=True, slots=True)
class Sample:
    """A cold node's first container, and its second."""

    cold: Start
    second_s: float
    """A further container of the same image, from ``ctr run`` until it is ready; the median of three."""
    counted: Counted | None
    """When the first one was ready; None for overlayfs."""
    local_s: float
    """One more, page cache dropped before: all of the image is here, and nothing of anything is in memory."""


Taken = dict[str, list[Sample]]


def run_case(place: Place) -> Result:
    layout = container_images(SET, place.say)
    database(place.say)
    samples: dict[str, Taken] = {}
    with open_link(MBIT_PER_S) as link, serve_far_registry(place.path, link) as registry:
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        for recipe in SET:
            for tag in (recipe.name, recipe.profiled):
                registry.push(layout, tag, _image(recipe, tag))
                near.call("convert", f"docker://{registry.local}/{_image(recipe, tag)}")
            with cold_node(place.path / "n", link, with_cafs=True) as node:
                record_profile(node, near, recipe, _image(recipe, recipe.profiled))
            samples[recipe.name] = _measure(place, link, recipe)
    return _judge(samples, layout)


def _image(recipe: Recipe, tag: str) -> str:
    return f"set/{recipe.name}:{tag}"


def _measure(place: Place, link: Link, recipe: Recipe) -> Taken:
    turns = {
        CAFS: partial(_sample, place, link, recipe, CAFS, recipe.name),
        PROFILED: partial(_sample, place, link, recipe, CAFS, recipe.profiled),
        OVERLAYFS: partial(_sample, place, link, recipe, OVERLAYFS, recipe.name),
    }
    taken = interleave(turns, place.rounds)
    for who, samples in taken.items():
        shown = ", ".join(f"{one.cold.seconds:.2f} (pull {one.cold.pull_s:.2f})" for one in samples)
        place.say(
            f"{recipe.name}, {who}: {shown} s; second {median([one.second_s for one in samples]):.3f} s"
        )
    return taken


def _sample(place: Place, link: Link, recipe: Recipe, snapshotter: str, tag: str) -> Sample:
    image = _image(recipe, tag)
    with cold_node(place.path / "n", link, with_cafs=snapshotter == CAFS) as node:
        with started(node, snapshotter, recipe, image, pull=True) as cold:
            counted = node.counted() if snapshotter == CAFS else None
        again = partial(_again, node, snapshotter, recipe, image)
        further = [again(f"further-{number}") for number in range(FURTHER)]
        drop_caches()
        return Sample(cold, median(further), counted, again("local"))


def _again(node: Node, snapshotter: str, recipe: Recipe, image: str, name: str) -> float:
    with started(node, snapshotter, recipe, image, name=name) as start:
        return start.seconds


def _judge(samples: dict[str, Taken], layout: Path) -> Result:
    names = list(samples)
    rows = [
        _mean_row(samples, names, "until ready, geometric mean", CAFS, TIMES_FASTER),
        _mean_row(
            samples, names, "until ready, geometric mean, with a profile", PROFILED, TIMES_FASTER_PROFILED
        ),
    ]
    rows += [
        _start_row(samples[r.name], r.name, CAFS, TIMES_FASTER_LITTLE if r.little else None) for r in SET
    ]
    rows += [_start_row(samples[name], name, PROFILED, None) for name in names]
    rows += [_limit_row(samples[name], name, who) for who in (CAFS, PROFILED) for name in names]
    rows += [_bytes_row(samples[name], name, who) for who in (CAFS, PROFILED) for name in names]
    rows += [_second_row(samples[name], name) for name in names]
    return Result(
        "container_start",
        f"Start of containers over {MBIT_PER_S} Mbit/s",
        "Images built from Debian's packages, in a docker-registry; Debian's containerd and runc on the node."
        f" {_sizes(layout)}. *Until ready*: `cafs pull` and `ctr run`, until the program has printed its line"
        " or answers on its socket (nginx and node a GET, redis PING, PostgreSQL SELECT 1 on a volume that"
        " was filled before). The rival is `ctr image pull` and `ctr run` with overlayfs. Before each sample"
        " all of the node is new: content, snapshots, chunk store, indexes; and the page cache is dropped."
        " *With a profile*: an earlier start was recorded and attached to the image. *Limit*: the compressed"
        " bytes of the chunks that were read until then, at the link's rate, and a warm start: a second"
        " container of the same image, from `ctr run` on; beside it stands what overlayfs needs without any"
        " link, once the page cache was dropped. *In all* are manifests, indexes and headers too.",
        tuple(rows),
        {f"{name}, {who}": _seconds(taken[who]) for name, taken in samples.items() for who in taken},
    )


def _sizes(layout: Path) -> str:
    sizes = [f"{recipe.name} {compressed_bytes(layout, recipe.name) / 1e6:.0f} MB" for recipe in SET]
    return f"Compressed: {', '.join(sizes)}"


def _seconds(samples: list[Sample]) -> list[float]:
    return [sample.cold.seconds for sample in samples]


def _faster(taken: Taken, who: str) -> float:
    return median(_seconds(taken[OVERLAYFS])) / median(_seconds(taken[who]))


def _mean_row(samples: dict[str, Taken], names: list[str], what: str, who: str, at_least: float) -> Row:
    times = math.exp(sum(math.log(_faster(samples[name], who)) for name in names) / len(names))
    shown = f"{times:.1f} times faster"
    return Row(what, "", OVERLAYFS, shown, f"at least {at_least:g} times", times >= at_least)


def _start_row(taken: Taken, name: str, who: str, at_least: float | None) -> Row:
    times = _faster(taken, who)
    return Row(
        f"{name} until ready{_more(who)}",
        format_seconds(_seconds(taken[who])),
        f"{OVERLAYFS} {format_seconds(_seconds(taken[OVERLAYFS]))}",
        f"{times:.1f} times faster",
        f"at least {at_least:g} times" if at_least else "",
        times >= at_least if at_least else None,
    )


def _limit_row(taken: Taken, name: str, who: str) -> Row:
    warm = median([sample.second_s for sample in taken[who]])
    touched = median([float(sample.counted.touched_bytes) for sample in taken[who] if sample.counted])
    limit = touched / LINK_BYTES_PER_S + warm
    local = median([sample.local_s for sample in taken[OVERLAYFS]])
    ratio = median(_seconds(taken[who])) / limit
    return Row(
        f"{name} against its limit{_more(who)}",
        format_seconds(_seconds(taken[who])),
        f"{touched / 1e6:.2f} MB over the link, and a warm start of {warm * 1000:.0f} ms: {limit:.2f} s"
        f" (overlayfs, image here, page cache dropped: {local:.2f} s)",
        f"{ratio:.2f}",
        f"at most {LIMIT_RATIO}",
        ratio <= LIMIT_RATIO,
    )


def _bytes_row(taken: Taken, name: str, who: str) -> Row:
    counted = [sample.counted for sample in taken[who] if sample.counted]
    fetched = median([float(one.fetched_bytes) for one in counted])
    touched = median([float(one.touched_bytes) for one in counted])
    received = median([float(sample.cold.received_bytes) for sample in taken[who]])
    return Row(
        f"{name}: chunk bytes fetched until ready{_more(who)}",
        f"{fetched / 1e6:.2f} MB ({received / 1e6:.2f} MB in all)",
        f"compressed bytes of the chunks read {touched / 1e6:.2f} MB",
        f"{fetched / touched:.2f}",
        f"at most {BYTES_RATIO}",
        fetched <= BYTES_RATIO * touched,
    )


def _second_row(taken: Taken, name: str) -> Row:
    ours = [sample.second_s for sample in taken[CAFS]]
    theirs = [sample.second_s for sample in taken[OVERLAYFS]]
    ratio = median(ours) / median(theirs)
    return Row(
        f"{name}: second container",
        format_seconds(ours),
        f"{OVERLAYFS} {format_seconds(theirs)}",
        f"{ratio:.2f}",
        "at most 1.00",
        ratio <= 1,
    )


def _more(who: str) -> str:
    return ", with a profile" if who == PROFILED else ""
