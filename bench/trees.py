"""The inputs: trees and tars made once, from this machine's files or from a seed, and kept in ``.cache``."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from demo.image import cache_directory, debian_python
from demo.process import run

LARGE_BYTES = 1_050_000_000
SMALL_FILES = 100_000
_MACHINE_PARTS = (
    "/usr/local/go",
    "/usr/lib/gcc",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/python3",
    "/usr/include",
    "/usr/bin",
    "/usr/lib",
    "/usr/share",
)
"""Programs, libraries and sources, in the order in which they are taken until there is enough."""


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """``.cache/bench/NAME``, made by ``make(place)`` if it is not there."""
    path = cache_directory() / "bench" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=path.parent))
        try:
            make(place / name)
            (place / name).rename(path)
        finally:
            shutil.rmtree(place)
    return path


def tree_bytes(tree: Path) -> int:
    """Sum of the sizes of all regular files."""
    return sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())


def tar_of(tree: Path) -> Path:
    """A GNU tar of ``tree``, entries sorted."""
    options = ["--sort=name", "--numeric-owner", "--xattrs", "--format=posix"]
    options += ["--pax-option=delete=atime,delete=ctime"]
    return _kept(
        f"{tree.name}.tar", lambda path: _run_tar([*options, "-cf", str(path), "-C", str(tree), "."])
    )


def _run_tar(words: list[str]) -> None:
    run(["tar", *words], timeout_s=900)


def large_tree() -> Path:
    """More than 1 GB of this machine's programs, libraries and sources."""
    return _kept("large", _gather)


def _gather(target: Path) -> None:
    target.mkdir()
    total = 0
    for part in map(Path, _MACHINE_PARTS):
        if not part.is_dir():
            continue
        inside = target / str(part).lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        run(["cp", "-a", "--no-clobber", f"{part}/.", inside], timeout_s=900)
        total = tree_bytes(target)
        if total >= LARGE_BYTES:
            return
    generator = random.Random(1)
    (target / "generated").mkdir()
    for number in range((LARGE_BYTES - total) // (4 << 20) + 1):
        (target / "generated" / f"{number:04}").write_bytes(_text(generator, 4 << 20))


def large_file_tree() -> Path:
    """A tree that holds one file of more than 1 GB: the tar of the large tree."""

    def make(path: Path) -> None:
        path.mkdir()
        shutil.copyfile(tar_of(large_tree()), path / "big")

    return _kept("bigfile", make)


def small_tree() -> Path:
    """100,000 files in 5,000 directories; sizes as in a tree of sources (median 1.5 kB, mean 3.5 kB)."""
    return _kept("small", _scatter)


def _scatter(target: Path) -> None:
    generator = random.Random(2)
    corpus = _text(generator, 16 << 20)
    for number in range(SMALL_FILES):
        if number % 20 == 0:
            folder = target / f"package-{number // 1000:03}" / f"module_{number // 20:04}"
            folder.mkdir(parents=True)
        size = min(int(generator.lognormvariate(7.3, 1.3)), 1 << 20)
        begin = generator.randrange(len(corpus) - size)
        name = f"{generator.choice(_WORDS)}_{number:05}.{generator.choice(('py', 'js', 'h', 'json'))}"
        (folder / name).write_bytes(b"file %d\n" % number + corpus[begin : begin + size])


_WORDS = (
    "parse",
    "index",
    "value",
    "return",
    "import",
    "module",
    "self",
    "stream",
    "buffer",
    "token",
    "class",
)


def _text(generator: random.Random, size: int) -> bytes:
    """Bytes that zstd makes about three times smaller, as it does sources: words and numbers."""
    words = [f"{word}{end}" for word in _WORDS for end in (" ", "(", "_id, ", " = ", ".", "\n    ", "):\n")]
    parts: list[str] = []
    length = 0
    while length < size:
        line = "".join(generator.choices(words, k=200)) + f"{generator.getrandbits(256):x}\n"
        parts.append(line)
        length += len(line)
    return "".join(parts).encode()[:size]


def debian_tree(tag: str = "v1") -> Path:
    """The root filesystem of the demo's image, unpacked."""
    layout = debian_python(tag, lambda _: None)
    return _kept(
        f"debian-{tag}",
        lambda path: print(run(["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", path]), end=""),
    )
