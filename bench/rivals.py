"""The filesystems CAFS is measured against, mounted from images made of the same tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.process import run


def make_erofs(tree: Path, image: Path) -> Path:
    """Uncompressed, as the virtual image of a layer index is; kept if it is there."""
    return _made(image, ["mkfs.erofs", "--quiet"], [image, tree])


def make_squashfs(tree: Path, image: Path) -> Path:
    """With zstd, as the chunks are; kept if it is there."""
    options = ["-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress"]
    return _made(image, ["mksquashfs", str(tree)], [image, *options])


def _made(image: Path, command: list[str], rest: list[str | Path]) -> Path:
    if not image.exists():
        beside = image.with_suffix(".new")
        beside.unlink(missing_ok=True)
        words = [*command, *(beside if word == image else word for word in rest)]
        run(words, timeout_s=900)
        beside.rename(image)
    return image


@contextmanager
def kernel_erofs(image: Path, target: Path) -> Iterator[Path]:
    """The kernel's own EROFS on a loop device."""
    target.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "erofs", "-o", "loop,ro", image, target])
    try:
        yield target
    finally:
        run(["umount", target])


@contextmanager
def squashfuse(program: str, image: Path, target: Path) -> Iterator[Path]:
    """``squashfuse`` or ``squashfuse_ll`` with its defaults."""
    target.mkdir(parents=True, exist_ok=True)
    run([program, image, target])
    try:
        yield target
    finally:
        run(["umount", target])
