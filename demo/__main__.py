"""``python -m demo``: the whole story in about a minute, with four tables at its end.

With ``--stay`` its cluster runs on until Ctrl-C.

Exit codes: 0 when the program answered right every time; 1 when something stood in the way (one line
says what); 2 for a wrong option; 130 on Ctrl-C. Processes, mounts and namespaces are gone at the end in every
case.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from demo.cafs_command import CafsHome
from demo.cluster import PASSWORD, open_cluster
from demo.cold import drop_caches
from demo.container import start_container
from demo.image import PROGRAM, compressed_bytes, debian_python, image_manifest
from demo.link import Link, open_link
from demo.mount_namespace import enter_own_namespace
from demo.node import CAFS, OVERLAYFS
from demo.process import DemoError
from demo.registry import ANY_ADDRESS, PORT, serve_far_registry, serve_registry
from demo.shared_start import Together, get_file, start_containers
from demo.start import SERVER, start_eagerly, start_lazily
from demo.switch import open_switch
from demo.tables import lazy_beside_eager, where_bytes_came_from

MBIT_PER_S, HOSTS = 200, 3
REPOSITORY = "demo/python:v1"
_MB = 1_000_000


class _Narrator:
    """Says each step with the time it took."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(f"  [dim]·[/] {text}", highlight=False)

    def step(self, text: str) -> _Step:
        return _Step(self.console, text)


class _Step:
    def __init__(self, console: Console, text: str) -> None:
        self._console = console
        self._text = text

    def __enter__(self) -> None:
        self._console.print(f"[bold cyan]▸[/] {self._text}", highlight=False)
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._console.print(f"  [green]✓[/] {time.monotonic() - self._began:.1f} s", highlight=False)


def tell(console: Console, place: Path, *, stay: bool) -> None:
    """Do everything, and show what came of it.

    Args:
        console: For all that is said.
        place: An empty directory.
        stay: Leave the cluster running until Ctrl-C.
    """
    narrator = _Narrator(console)
    with narrator.step("A real image: Debian, Python and numpy in three layers (kept between runs)"):
        layout = debian_python("v1", narrator.say)
    with open_link(MBIT_PER_S) as link, serve_far_registry(place, link) as registry:
        with narrator.step(
            f"docker-registry in a network of its own, {MBIT_PER_S} Mbit/s away; skopeo pushes"
        ):
            registry.push(layout, "v1", REPOSITORY)
        near = CafsHome(place / "near", registry.enter, (registry.local,))
        with narrator.step(f"cafs convert docker://{registry.local}/{REPOSITORY}   (beside the registry)"):
            near.call("convert", f"docker://{registry.local}/{REPOSITORY}")
        tables = _on_one_host(narrator, place, link, compressed_bytes(layout, "v1"))
        _on_several_hosts(narrator, place, layout, tables, stay=stay)


def _on_one_host(narrator: _Narrator, place: Path, link: Link, image_bytes: int) -> list[Table]:
    far = CafsHome(place / "far", tuple(link.on_client()), (SERVER,))
    with narrator.step(
        f"Lazily, all caches cold: cafs mount docker://{SERVER}/{REPOSITORY}; chroot; {PROGRAM}"
    ):
        lazy = start_lazily(far, link, REPOSITORY)
    with narrator.step("The usual way, all caches cold: skopeo copy; umoci unpack; chroot; " + PROGRAM):
        eager = start_eagerly(link, REPOSITORY, place / "eager")
    with narrator.step("As a container: cafs pull; ctr run --snapshotter cafs"):
        lazy_container = start_container(link, CAFS, REPOSITORY, place / "n", with_cafs=True)
    with narrator.step("As a container, the usual way: ctr image pull; ctr run"):
        eager_container = start_container(link, OVERLAYFS, REPOSITORY, place / "n", with_cafs=False)
    title = f"\nFrom nothing to the program's answer, over {MBIT_PER_S} Mbit/s"
    ways, under_containerd = ("cafs mount", "pull + unpack"), ("cafs snapshotter", "overlayfs")
    return [
        lazy_beside_eager(title, ways, image_bytes, lazy, eager),
        lazy_beside_eager(
            "\nThe same under containerd", under_containerd, image_bytes, lazy_container, eager_container
        ),
    ]


def _on_several_hosts(
    narrator: _Narrator, place: Path, layout: Path, tables: list[Table], *, stay: bool
) -> None:
    """The registry's files are there already; it is served once more, on the cluster's network."""
    image_bytes = compressed_bytes(layout, "v1")
    largest = max(image_manifest(layout, "v1")["layers"], key=lambda layer: int(layer["size"]))
    with (
        open_switch([MBIT_PER_S, 0, *[MBIT_PER_S] * HOSTS]) as (at_registry, *others),
        serve_registry(place, at_registry.inside, ANY_ADDRESS),
        ExitStack() as stack,
    ):
        server = f"{at_registry.address}:{PORT}"
        with narrator.step(
            f"A cluster, {MBIT_PER_S} Mbit/s for every host: cafs up with manager, scheduler and seed on one,"
            f" with peer, mount server and snapshotter beside containerd on {HOSTS} more"
        ):
            cluster = stack.enter_context(open_cluster(place / "n", others, server))
        with narrator.step(f"The same container on {HOSTS} hosts at once, all caches cold"):
            drop_caches()
            started = start_containers(cluster, at_registry, f"{server}/{REPOSITORY}")
        size = f"{int(largest['size']) / _MB:.0f} MB"
        url = f"http://{server}/v2/{REPOSITORY.partition(':')[0]}/blobs/{largest['digest']}"
        with narrator.step(f"cafs get on {HOSTS} hosts at once: a file of {size}"):
            fetched = get_file(cluster, at_registry, url, largest["digest"])
        known = Counter(str(host["kind"]) for host in cluster.known_hosts() if host["active"])
        tables.append(_came(f"\n{HOSTS} containers at once", "program answered after", started))
        tables.append(_came(f"\nA file to {HOSTS} hosts at once", "there after", fetched))
        for table in tables:
            narrator.console.print(table)
        _sum_up(narrator, image_bytes, started, known)
        console = f"{cluster.site}/console/"
        if not stay:
            told = f"The manager's console was at {console}: make demo ARGS=--stay leaves all of it running."
            narrator.console.print(told, highlight=False)
        else:
            narrator.console.print(
                f"The manager's console: {console}. Its first administrator is `demo`, with the password "
                f"{PASSWORD!r}. Ctrl-C ends all.",
                highlight=False,
            )
            signal.pause()


def _came(title: str, done: str, together: Together) -> Table:
    sent = together.origin_sent_bytes / _MB
    return where_bytes_came_from(f"{title}: {sent:.1f} MB left the origin", done, together)


def _sum_up(narrator: _Narrator, image_bytes: int, started: Together, known: Counter[str]) -> None:
    pulled = HOSTS * image_bytes / _MB
    narrator.console.print(
        f"[green]The program gave the right answer from all {4 + HOSTS}.[/]"
        f" {HOSTS} full pulls are {pulled:.0f} MB of the origin's; {HOSTS} lazy starts were"
        f" {started.origin_sent_bytes / _MB:.1f} MB.",
        highlight=False,
    )
    kinds = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(known.items()))
    narrator.console.print(f"The manager knows as active: {kinds}.", highlight=False)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does: through every context's own end."""
    raise KeyboardInterrupt


def main() -> int:
    console = Console()
    stay = sys.argv[1:] == ["--stay"]
    if sys.argv[1:] and not stay:
        console.print("[bold red]demo:[/] the one option is --stay: leave the cluster running until Ctrl-C")
        return 2
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        enter_own_namespace("demo")
        with tempfile.TemporaryDirectory(prefix="cafs-demo-", dir="/var/tmp") as place:
            tell(console, Path(place), stay=stay)
    except DemoError as e:
        console.print(f"[bold red]demo:[/] {e}", highlight=False, markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything was cleaned up")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
