"""``python -m demo``: the whole story in about a minute, with two tables at its end.

Exit codes: 0 when the program answered right every time; 1 when something stood in the way (one line
says what); 130 on Ctrl-C. Processes, mounts and namespaces are gone at the end in every case.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from demo.cafs_command import CafsHome
from demo.container import start_container
from demo.image import PROGRAM, compressed_bytes, debian_python
from demo.link import open_link
from demo.mount_namespace import enter_own_namespace
from demo.node import CAFS, OVERLAYFS
from demo.process import DemoError
from demo.registry import serve_far_registry
from demo.start import SERVER, Start, start_eagerly, start_lazily

MBIT_PER_S = 200
REPOSITORY = "demo/python:v1"
_MB = 1_000_000


class _Narrator:
    """Says each step with the time it took."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(f"  [dim]·[/] {text}", highlight=False)

    def step(self, text: str) -> _Step:
        return _Step(self._console, text)


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


@dataclass(frozen=True, slots=True)
class Told:
    """What came out."""

    image_bytes: int
    """The image's compressed size."""
    lazy: Start
    eager: Start
    lazy_container: Start
    eager_container: Start


def tell(console: Console, place: Path) -> Told:
    """Do everything."""
    narrator = _Narrator(console)
    with narrator.step("A real image: Debian, Python and numpy in three layers (kept between runs)"):
        layout = debian_python("v1", narrator.say)
    image_bytes = compressed_bytes(layout, "v1")
    with open_link(MBIT_PER_S) as link, serve_far_registry(place, link) as registry:
        with narrator.step(
            f"docker-registry in a network of its own, {MBIT_PER_S} Mbit/s away; skopeo pushes"
        ):
            registry.push(layout, "v1", REPOSITORY)
        near = CafsHome(place / "near", registry.enter, (registry.local,))
        with narrator.step(f"cafs convert docker://{registry.local}/{REPOSITORY}   (beside the registry)"):
            near.call("convert", f"docker://{registry.local}/{REPOSITORY}")
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
    return Told(image_bytes, lazy, eager, lazy_container, eager_container)


def draw(told: Told) -> Iterator[Table]:
    """The tables of the result."""
    title = f"\nFrom nothing to the program's answer, over {MBIT_PER_S} Mbit/s"
    columns = ("cafs mount", "pull + unpack")
    yield _table(title, columns, told.image_bytes, told.lazy, told.eager)
    columns = ("cafs snapshotter", "overlayfs")
    yield _table(
        "\nThe same under containerd", columns, told.image_bytes, told.lazy_container, told.eager_container
    )


def _table(title: str, columns: tuple[str, str], image_bytes: int, lazy: Start, eager: Start) -> Table:
    table = Table(title=title)
    for column in ("", *columns, "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    size = f"{image_bytes / _MB:.1f} MB"
    table.add_row("image size (compressed)", size, size, "")
    rows = (
        ("bytes fetched", lazy.received_bytes / _MB, eager.received_bytes / _MB, "{:.1f} MB"),
        ("root filesystem there after", lazy.ready_s, eager.ready_s, "{:.2f} s"),
        ("program answered after", lazy.seconds, eager.seconds, "{:.2f} s"),
    )
    for name, mine, theirs, form in rows:
        table.add_row(name, form.format(mine), form.format(theirs), f"{theirs / mine:.1f}x less")
    return table


def _interrupted(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does: through every context's own end."""
    raise KeyboardInterrupt


def main() -> int:
    console = Console()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        enter_own_namespace("demo")
        with tempfile.TemporaryDirectory(prefix="cafs-demo-", dir="/var/tmp") as place:
            for table in draw(tell(console, Path(place))):
                console.print(table)
    except DemoError as e:
        console.print(f"[bold red]demo:[/] {e}", highlight=False, markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything was cleaned up")
        return 130
    console.print("[green]The program gave the right answer from all four.[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
