"""Containers that read a whole image over and over and compare every byte, while a test does its worst.

A container says how each round ended through a pipe that is a file of its image: nothing has to look again
and again, and whatever the node's services do, the kernel keeps what was said.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.container_images import PushedImage, base_layer, push_container_image
from tests.support.node import CAFS, Node
from tests.support.program import run_cafs
from tests.support.registry import Registry
from tests.support.tars import make_tar, member

FILES, LAYERS = 30, 3
_READ = """
while [ ! -e /stop ]; do
    sha256sum -c -s /sums && echo good > /told || echo BAD > /told
done
echo ended > /told
"""
_ROUND_S = 90
"""No round takes this long, whatever is being killed meanwhile."""


def push_reading_image(registry: Registry, repository: str) -> PushedImage:
    """Some megabytes that cannot be compressed, with their sums, in layers that hide files of one another."""
    rng, layers, sums = random.Random(3), [base_layer()], {}
    for number in range(LAYERS):
        content = {
            f"data/{number}-{i}": rng.randbytes(rng.choice([3_000, 90_000, 700_000])) for i in range(FILES)
        }
        sums |= {name: hashlib.sha256(value).hexdigest() for name, value in content.items()}
        layers.append(make_tar(*(member(name, content=value) for name, value in content.items())))
    gone = [name for name in sums if name.endswith("-0")]
    told = "".join(f"{value}  /{name}\n" for name, value in sums.items() if name not in gone)
    hidden = [member(name.replace("data/", "data/.wh.")) for name in gone]
    layers.append(
        make_tar(
            member("data", tarfile.DIRTYPE, mode=0o755),
            *hidden,
            member("sums", content=told.encode()),
            member("told", tarfile.FIFOTYPE, mode=0o600),
        )
    )
    image = push_container_image(registry, repository, layers)
    run_cafs("convert", image.reference)
    return image


@contextmanager
def reading_containers(node: Node, image: PushedImage, count: int) -> Iterator[list[ReadingContainer]]:
    """So many that run; at the end they have ended, and every byte that they ever read was right."""
    reading = [ReadingContainer(node, image) for _ in range(count)]
    try:
        yield reading
        for container in reading:
            container.end()
    finally:
        for container in reading:
            container.close()


class ReadingContainer:
    """One of them."""

    def __init__(self, node: Node, image: PushedImage) -> None:
        self.name = f"cafs-reads-{os.urandom(4).hex()}"
        self.rounds = 0
        """How many have ended, as far as we have looked."""
        self._node = node
        node.containerd.run_detached(image.reference, self.name, "sh", "-c", _READ, snapshotter=CAFS)
        self._root = node.containerd.merged_root(self.name)
        # For writing, too: so there is no end of the file while the container does not have it open.
        self._told = os.open(self._root / "told", os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""

    def read_on(self, rounds: int) -> None:
        """Wait until so many more rounds have ended; the first of them may have begun already."""
        self._forget_what_was_said()
        for _ in range(rounds):
            self._check(self._next(), "good")

    def end(self) -> None:
        """Have it end after this round."""
        (self._root / "stop").touch()
        while (word := self._next()) == "good":
            pass
        self._check(word, "ended")

    def close(self) -> None:
        """Listen no more."""
        os.close(self._told)

    def forget_pages(self) -> None:
        """Drop what the kernel has of its files: the next reads come to the mount server."""
        layers = self._node.mountd.run / "fuse/layers"
        for path in [*(self._root / "data").iterdir(), *layers.iterdir()]:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _forget_what_was_said(self) -> None:
        while b"\n" in self._unread or self._hear(0):
            self._check(self._next(), "good")

    def _hear(self, within_s: float) -> bool:
        said, _, _ = select.select([self._told], [], [], within_s)
        if said:
            self._unread += os.read(self._told, 4096)
        return bool(said)

    def _next(self) -> str:
        while b"\n" not in self._unread:
            heard = self._hear(_ROUND_S)
            assert heard, f"{self.name} says nothing any more\n{self._node.mountd.log[-3000:]}"
        word, _, self._unread = self._unread.partition(b"\n")
        self.rounds += word == b"good"
        return word.decode()

    def _check(self, word: str, expected: str) -> None:
        assert word == expected, f"round {self.rounds} of {self.name}\n{self._node.mountd.log[-3000:]}"
