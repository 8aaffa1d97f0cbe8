"""Ten images that share all layers but one, side by side: what is mounted, and what memory they take."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.containers.start import started
from bench.images.recipes import SERVICES, Recipe, container_images
from bench.measure import interleave, median
from bench.place import Place
from bench.report import Result, Row
from demo.cafs_command import CafsHome
from demo.link import Link, open_link
from demo.node import CAFS, OVERLAYFS, Node, cold_node
from demo.registry import serve_far_registry

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One node with all ten."""

    mounts: int
    """EROFS mounts at the end; overlayfs has none."""
    first_bytes: int
    """By how much the page cache grew while the first image was pulled and started."""
    others_bytes: int
    """The same for the nine others together."""
    others_received: int
    """What the nine others had to fetch over the link."""


def run_case(place: Place) -> Result:
    layout = container_images(SERVICES, place.say)
    with open_link(200) as link, serve_far_registry(place.path, link) as registry:
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        for recipe in SERVICES:
            registry.push(layout, recipe.name, _image(recipe))
            near.call("convert", f"docker://{registry.local}/{_image(recipe)}")
        turns = {who: partial(_sample, place, link, who) for who in (CAFS, OVERLAYFS)}
        samples = interleave(turns, place.rounds)
    return _judge(samples[CAFS], samples[OVERLAYFS])


def _image(recipe: Recipe) -> str:
    return f"services/{recipe.name}:v1"


def _sample(place: Place, link: Link, who: str) -> Sample:
    with cold_node(place.path / "n", link, with_cafs=who == CAFS) as node, ExitStack() as stack:
        empty = _page_cache_bytes()
        _start(stack, node, who, SERVICES[0])
        one, received = _page_cache_bytes(), link.received_bytes()
        for recipe in SERVICES[1:]:
            _start(stack, node, who, recipe)
        sample = Sample(
            _erofs_mounts(), one - empty, _page_cache_bytes() - one, link.received_bytes() - received
        )
        place.say(f"{who}: {sample}")
        return sample


def _start(stack: ExitStack, node: Node, who: str, recipe: Recipe) -> None:
    stack.enter_context(started(node, who, recipe, _image(recipe), name=recipe.name, pull=True))


def _page_cache_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no Cached")


def _erofs_mounts() -> int:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sum(line.partition(" - ")[2].startswith("erofs ") for line in lines)


def _judge(ours: list[Sample], theirs: list[Sample]) -> Result:
    shared = len(SERVICES[0].steps) - 1
    layers = shared + len(SERVICES)
    mounts = max(sample.mounts for sample in ours)
    first, others = (_middle(ours, name) for name in ("first_bytes", "others_bytes"))
    their_first, their_others = (_middle(theirs, name) for name in ("first_bytes", "others_bytes"))
    rows = (
        Row(
            "mounts of layers",
            str(mounts),
            f"{len(SERVICES) * (shared + 1)} layers in ten images, {layers} different ones",
            "",
            f"{layers}",
            mounts == layers,
        ),
        Row(
            "page cache of the nine others, against the first",
            f"{others / _MIB:.1f} MiB, first {first / _MIB:.1f} MiB",
            f"{OVERLAYFS} {their_others / _MIB:.1f} MiB, first {their_first / _MIB:.1f} MiB",
            f"{others / first:.2f}",
            "under 1.00",
            others < first,
        ),
        Row(
            "received for the nine others",
            f"{_middle(ours, 'others_received') / 1e6:.2f} MB",
            f"{OVERLAYFS} {_middle(theirs, 'others_received') / 1e6:.2f} MB",
            "",
            "",
            None,
        ),
    )
    return Result(
        "container_shared",
        "Ten images on one base",
        "Ten images of five layers, of which only the last, a Python program of its own, differs. They are"
        " pulled and started one after the other, and all run. *Page cache* is the growth of the whole"
        " machine's: the nine others find the interpreter and numpy in memory, if the base is shared.",
        rows,
        {
            who: [float(one.others_bytes) for one in taken]
            for who, taken in ((CAFS, ours), (OVERLAYFS, theirs))
        },
    )


def _middle(samples: list[Sample], name: str) -> float:
    return median([float(getattr(sample, name)) for sample in samples])
