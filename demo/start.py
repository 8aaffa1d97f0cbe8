"""Starts the image's program over the link from nothing, in both ways, and says what it took."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.cafs_command import CafsHome
from demo.cold import drop_caches
from demo.image import ANSWER, PROGRAM
from demo.link import SERVER_ADDRESS, Link
from demo.process import DemoError, run
from demo.registry import PORT

SERVER = f"{SERVER_ADDRESS}:{PORT}"
"""The registry as the client sees it."""


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start, from the command until the program's answer."""

    seconds: float
    """Until the answer was there."""
    ready_s: float
    """Of those, until the root filesystem was there."""
    received_bytes: int
    """By the client's end of the link until then, headers included."""


class _Watch:
    """Counts time and bytes from its making on."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._bytes = link.received_bytes()
        self._began = time.monotonic()
        self._ready_s = 0.0

    def ready(self) -> None:
        self._ready_s = time.monotonic() - self._began

    def answered(self, answer: str) -> Start:
        seconds = time.monotonic() - self._began
        received = self._link.received_bytes() - self._bytes
        if answer.strip() != ANSWER:
            raise DemoError(f"the program answered {answer.strip()!r} instead of {ANSWER!r}")
        return Start(seconds, self._ready_s, received)


def run_program(root: Path) -> str:
    """What the program of the image in ``root`` answers."""
    return run(["chroot", root, "python3", PROGRAM], timeout_s=120)


def start_eagerly(link: Link, repository: str, place: Path) -> Start:
    """Pull all layers, unpack them, run. Leaves nothing in ``place``."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    drop_caches()
    watch = _Watch(link)
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false"]
    run([*link.on_client(), *copy, f"docker://{SERVER}/{repository}", f"oci:{place}/oci:pulled"])
    # The raw form: without the listing of hashes that a later repack would need.
    run(["umoci", "raw", "unpack", "--image", f"{place}/oci:pulled", place / "root"])
    watch.ready()
    start = watch.answered(run_program(place / "root"))
    shutil.rmtree(place)
    return start


def start_lazily(
    home: CafsHome,
    link: Link,
    repository: str,
    options: tuple[str, ...] = (),
    observe: Callable[[], None] = lambda: None,
) -> Start:
    """Mount with an empty cache, run. The mount is gone afterwards, ``home`` keeps its cache.

    Args:
        home: Its commands run on the client's side of ``link``.
        link: Counts the bytes.
        repository: NAME:TAG of the converted image.
        options: For ``cafs mount``.
        observe: Called once after the answer, while the mount is still there.
    """
    home.clear()
    drop_caches()
    watch = _Watch(link)
    with home.mounted(f"docker://{SERVER}/{repository}", home.place / "root", options) as root:
        watch.ready()
        start = watch.answered(run_program(root))
        observe()
        return start
