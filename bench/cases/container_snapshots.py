"""How long ordinary snapshots take, against containerd's own overlayfs snapshotter, each in a containerd."""

from __future__ import annotations

from contextlib import ExitStack

from bench.containers.snapshots import METHODS, Snapshots, open_snapshots
from bench.measure import median
from bench.place import Place
from bench.report import Result, Row
from demo.containerd import serve_containerd
from demo.link import open_link
from demo.node import CAFS, OVERLAYFS, cold_node

SNAPSHOTS = 40
"""Of each contender in a round."""
WITHIN_S = 0.002


def run_case(place: Place) -> Result:
    with open_link(200) as link, ExitStack() as stack:
        node = stack.enter_context(cold_node(place.path / "n", link, with_cafs=True))
        rival = stack.enter_context(serve_containerd(place.path / "o"))
        ours = stack.enter_context(open_snapshots(node.containerd.address, CAFS))
        theirs = stack.enter_context(open_snapshots(rival.address, OVERLAYFS))
        for contender in (ours, theirs):
            contender.round(0)
            contender.seconds.update({method: [] for method in METHODS})
        for number in range(1, place.rounds * SNAPSHOTS + 1):
            for contender in (ours, theirs):
                contender.round(number)
    return Result(
        "container_snapshots",
        "Ordinary snapshots",
        "Calls of containerd's snapshots service, one after the other: to a containerd that has"
        " `cafs snapshotter` as its proxy plugin, and to one for its own overlayfs snapshotter, which it has"
        " inside. So ours cross one more socket, and containerd asks for more than the call itself (before a"
        " Prepare and after a Commit it calls Stat). The lives of two snapshots, again and again, in turns:"
        " one is prepared and committed, the other stands on it and is removed.",
        tuple(_row(method, ours, theirs) for method in METHODS),
        {
            f"{method}, {name}": contender.seconds[method]
            for method in METHODS
            for name, contender in ((CAFS, ours), (OVERLAYFS, theirs))
        },
    )


def _row(method: str, ours: Snapshots, theirs: Snapshots) -> Row:
    mine, other = ours.seconds[method], theirs.seconds[method]
    difference = median(mine) - median(other)
    return Row(
        method,
        _milliseconds(mine),
        f"{OVERLAYFS} {_milliseconds(other)}",
        f"{difference * 1000:+.2f} ms",
        f"at most +{WITHIN_S * 1000:.0f} ms",
        difference <= WITHIN_S,
    )


def _milliseconds(samples: list[float]) -> str:
    return f"{median(samples) * 1000:.2f} ms"
