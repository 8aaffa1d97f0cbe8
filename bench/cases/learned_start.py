"""Containers on a cold node behind a slow link: with what was learned of other nodes' starts, and without."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from bench.containers.record import record_profile
from bench.containers.start import Start, started
from bench.images.recipes import NODE, POSTGRES, PYTHON, SCIENCE, Recipe, container_images, database
from bench.measure import interleave, median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.cafs_command import CafsHome
from demo.link import SERVER_ADDRESS, Link, open_link
from demo.node import CAFS, Counted, Node, cold_node
from demo.notify import serving
from demo.process import DemoError, run
from demo.registry import Registry, serve_far_registry

MBIT_PER_S = 200
TIMES_FASTER, FROM_BYTES = 1.3, 20_000_000
TEACHERS = 3
"""Nodes that start an image before it is measured."""
PATIENCE_S, LOOK_S = 60.0, 0.2
MANAGER = f"{SERVER_ADDRESS}:65003"
SET = (PYTHON, NODE, POSTGRES, SCIENCE)
NONE, DERIVED, LEARNED, RECORDED = "none", "derived", "learned", "recorded"


@dataclass(frozen=True, slots=True)
class Sample:
    """A cold node's first container."""

    cold: Start
    counted: Counted
    """When it was ready."""


Taken = dict[str, list[Sample]]


def run_case(place: Place) -> Result:
    layout = container_images(SET, place.say)
    database(place.say)
    samples: dict[str, Taken] = {}
    with (
        open_link(MBIT_PER_S) as link,
        serve_far_registry(place.path, link) as registry,
        _manager(place, registry),
    ):
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        for recipe in SET:
            for what, tag in ((NONE, recipe.name), (DERIVED, recipe.name), (RECORDED, recipe.profiled)):
                registry.push(layout, tag, _image(recipe, what))
                near.call("convert", f"docker://{registry.local}/{_image(recipe, what)}")
            _take_profile_away(registry, _image(recipe, NONE))
            with cold_node(place.path / "n", link, with_cafs=True) as node:
                record_profile(node, near, recipe, _image(recipe, RECORDED))
            for _ in range(TEACHERS):
                _teach(place, link, recipe)
            samples[recipe.name] = _measure(place, link, recipe)
    return _judge(samples)


def _image(recipe: Recipe, what: str) -> str:
    """What is learned is learned of a manifest, wherever that lies."""
    return f"{DERIVED if what == LEARNED else what}/{recipe.name}:v1"


@contextmanager
def _manager(place: Place, registry: Registry) -> Iterator[None]:
    home = CafsHome(place.path / "manager", registry.enter)
    home.place.mkdir()
    command = home.command("manager", "--listen", MANAGER, "--rest", "127.0.0.1:65004")
    with serving(command, place.path / "manager.log", home.env):
        yield


def _take_profile_away(registry: Registry, image: str) -> None:
    """Converting derives one."""
    repository, tag = image.split(":")
    at = f"http://{registry.local}/v2/{repository}/manifests"
    accept = [
        "-H",
        "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json",
    ]
    head = run([*registry.enter, "curl", "-sfI", *accept, f"{at}/{tag}"])
    digest = next(line.split()[1] for line in head.splitlines() if line.lower().startswith("docker-content"))
    referrers = json.loads(run([*registry.enter, "curl", "-sf", *accept, f"{at}/{digest.replace(':', '-')}"]))
    for each in referrers["manifests"]:
        if "profile" in each["artifactType"]:
            run([*registry.enter, "curl", "-sf", "-X", "DELETE", f"{at}/{each['digest']}"])


def _node(place: Place, link: Link, *, learns: bool) -> AbstractContextManager[Node]:
    settings = {"managers": MANAGER, "learned_profiles": "true" if learns else "false"}
    return cold_node(place.path / "n", link, with_cafs=True, settings=settings)


def _teach(place: Place, link: Link, recipe: Recipe) -> None:
    """Start it on one more node, until the manager has learned of it.

    Raises:
        DemoError: it does not.
    """
    with (
        _node(place, link, learns=True) as node,
        started(node, CAFS, recipe, _image(recipe, LEARNED), pull=True),
    ):
        assert node.home is not None
        socket = node.home.place / "run/peer/peer.sock"
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            shown = run(["curl", "-sf", "--unix-socket", str(socket), "http://peer/v1/status"])
            if json.loads(shown)["profiles"]["told"]:
                return
            time.sleep(LOOK_S)
    raise DemoError(f"the manager did not want the start of {recipe.name}")


def _measure(place: Place, link: Link, recipe: Recipe) -> Taken:
    turns = {what: partial(_sample, place, link, recipe, what) for what in (NONE, DERIVED, LEARNED, RECORDED)}
    taken = interleave(turns, place.rounds)
    for what, samples in taken.items():
        shown = ", ".join(f"{one.cold.seconds:.2f} (pull {one.cold.pull_s:.2f})" for one in samples)
        place.say(f"{recipe.name}, {what}: {shown} s; {samples[-1].counted}")
    return taken


def _sample(place: Place, link: Link, recipe: Recipe, what: str) -> Sample:
    with (
        _node(place, link, learns=what == LEARNED) as node,
        started(node, CAFS, recipe, _image(recipe, what), pull=True) as cold,
    ):
        return Sample(cold, node.counted())


def _judge(samples: dict[str, Taken]) -> Result:
    rows = [_row(name, taken, what) for name, taken in samples.items() for what in (NONE, DERIVED, RECORDED)]
    rows += [_bytes_row(name, taken) for name, taken in samples.items()]
    return Result(
        "learned_start",
        "Start of containers with what was learned of other starts",
        f"Images and link as in the start of containers ({MBIT_PER_S} Mbit/s), and one whose program imports"
        " pandas and scipy, as it reads more than those; each node also runs"
        f" `cafs peer`, which the manager knows. *Learned*: {TEACHERS} other nodes have started the image"
        " before."
        " *None*: no profile is attached. *Derived*: the one that `cafs convert` attaches."
        " *Recorded*: by `cafs mount --record`, and pushed.",
        tuple(rows),
        {
            f"{name}, {what}": _seconds(found)
            for name, taken in samples.items()
            for what, found in taken.items()
        },
    )


def _seconds(samples: list[Sample]) -> list[float]:
    return [sample.cold.seconds for sample in samples]


def _touched(samples: list[Sample]) -> float:
    return median([float(sample.counted.touched_bytes) for sample in samples])


def _row(name: str, taken: Taken, against: str) -> Row:
    times = median(_seconds(taken[against])) / median(_seconds(taken[LEARNED]))
    must = against == NONE and _touched(taken[LEARNED]) > FROM_BYTES
    return Row(
        f"{name} until ready, learned",
        format_seconds(_seconds(taken[LEARNED])),
        f"{against} {format_seconds(_seconds(taken[against]))}",
        f"{times:.2f} times faster",
        f"at least {TIMES_FASTER} times" if must else "",
        times >= TIMES_FASTER if must else None,
    )


def _bytes_row(name: str, taken: Taken) -> Row:
    fetched = median([float(sample.counted.fetched_bytes) for sample in taken[LEARNED]])
    touched = _touched(taken[LEARNED])
    return Row(
        f"{name}: chunk bytes fetched until ready, learned",
        f"{fetched / 1e6:.2f} MB",
        f"compressed bytes of the chunks read {touched / 1e6:.2f} MB",
        f"{fetched / touched:.2f}",
        "",
        None,
    )
