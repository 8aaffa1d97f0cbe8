"""Starts a container, waits until its program is ready, and says what that took. Its end is the context's."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.containers.ready import await_answer
from bench.images.programs import DATABASE, READY, RUN
from bench.images.recipes import Recipe, database
from demo.node import Node
from demo.process import ENDING_S, DemoError, run


@dataclass(frozen=True, slots=True)
class Start:
    """What a start took."""

    pull_s: float
    """Until the pull had ended; 0 when nothing was pulled."""
    seconds: float
    """Until the program was ready, the pull included."""
    received_bytes: int
    """By the node's end of the link until then, headers included."""


@contextmanager
def started(
    node: Node, snapshotter: str, recipe: Recipe, image: str, *, name: str = "probe", pull: bool = False
) -> Iterator[Start]:
    """A container that is ready, until the context ends.

    Args:
        node: Where.
        snapshotter: Of containerd's.
        recipe: What is in ``image``.
        image: Repository and tag in the registry.
        name: Of the container.
        pull: Pull the image first. Both counts then begin before that.

    Raises:
        DemoError: it does not start or does not become ready.
    """
    with prepared(node, recipe, name) as options:
        before, began = node.link.received_bytes(), time.perf_counter()
        if pull:
            run(node.pull_command(snapshotter, image), env=node.home.env if node.home else None)
        pulled = time.perf_counter() - began if pull else 0.0
        command = node.containerd.run_command(snapshotter, options, node.reference(image), name)
        with ready(node, command, recipe, name):
            seconds = time.perf_counter() - began
            yield Start(pulled, seconds, node.link.received_bytes() - before)


@contextmanager
def prepared(node: Node, recipe: Recipe, name: str) -> Iterator[list[str]]:
    """Options of ``ctr run``: the volumes that the container is given."""
    volumes = _volumes(node, name)
    (volumes / "run").mkdir(parents=True)
    (volumes / "run").chmod(0o777)
    options = ["--rm", "--mount", f"type=bind,src={volumes / 'run'},dst={RUN},options=rbind:rw"]
    if recipe.asks == "postgres":
        run(["cp", "-a", database(lambda _: None), volumes / "data"])
        options += ["--mount", f"type=bind,src={volumes / 'data'},dst={DATABASE},options=rbind:rw"]
    try:
        yield options
    finally:
        shutil.rmtree(volumes, ignore_errors=True)


@contextmanager
def ready(node: Node, command: Sequence[str], recipe: Recipe, name: str) -> Iterator[None]:
    """Run the container; go on as soon as it is ready, and end it afterwards."""
    said = node.containerd.place / f"{name}.err"
    with said.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        if recipe.asks:
            await_answer(recipe.asks, _volumes(node, name) / "run", lambda: process.poll() is not None)
        else:
            _await_line(process, said)
        yield
    finally:
        _end(node, process, name)


def _volumes(node: Node, name: str) -> Path:
    return node.containerd.place / "volumes" / name


def _await_line(process: subprocess.Popen[bytes], said: Path) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if READY.encode() in line:
            return
    last = said.read_text(errors="replace").strip().splitlines()[-1:]
    raise DemoError(f"the container ended without the line that was expected: {' '.join(last)}")


def _end(node: Node, process: subprocess.Popen[bytes], name: str) -> None:
    """Kill what goes on; ``ctr run --rm`` then removes the container and ends too."""
    if process.poll() is None:
        kill = node.containerd.command("task", "kill", "--signal", "SIGKILL", name)
        # A program that ends by itself may be gone by now.
        subprocess.run(kill, check=False, capture_output=True)
    assert process.stdout is not None
    process.stdout.close()
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
