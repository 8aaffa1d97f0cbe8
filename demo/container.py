"""Starts the image's program as a container, from nothing: lazily through CAFS, and with overlayfs."""

from __future__ import annotations

import time
from pathlib import Path

from demo.image import ANSWER
from demo.link import Link
from demo.node import cold_node
from demo.process import DemoError, run
from demo.start import Start


def start_container(link: Link, snapshotter: str, image: str, place: Path, *, with_cafs: bool) -> Start:
    """Pull and run on a new node. Leaves nothing in ``place``.

    Args:
        link: The node is on its client's side.
        snapshotter: Of containerd's.
        image: NAME:TAG in the registry.
        place: The node's directory; its path must be short.
        with_cafs: Whether the node has CAFS's services.

    Raises:
        DemoError: something does not start, or the program gives a wrong answer.
    """
    with cold_node(place, link, with_cafs=with_cafs) as node:
        before, began = link.received_bytes(), time.monotonic()
        run(node.pull_command(snapshotter, image), env=node.home.env if node.home else None)
        pulled = time.monotonic() - began
        command = node.containerd.run_command(snapshotter, ["--rm"], node.reference(image), "demo")
        answer = run(command, timeout_s=120).strip()
        seconds = time.monotonic() - began
        if answer != ANSWER:
            raise DemoError(f"the container answered {answer!r} instead of {ANSWER!r}")
        return Start(seconds, pulled, link.received_bytes() - before)
