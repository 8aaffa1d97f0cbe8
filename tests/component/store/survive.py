"""Damages copies of a store and uses them; run as ``python -m tests.component.store.survive FOLDER COUNT``.

Every use happens in a forked child, because a damaged page may kill who meets it through LMDB's memory map.
A first use may end in an error of ours or be killed; then the next use must go well. A wrong byte, another
A first use may end in an error of ours or be killed; then the next use must go well. A wrong byte, another
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

from cafs.errors import CafsError
from cafs.store.chunk_store import ChunkStore
from tests.component.store.chunks import raw_chunk, wanted, zstd_chunk
from tests.component.store.damage import data_file, flip

QUOTA = 16 << 20
PAGE = 4096
KEPT = [zstd_chunk(seed) if seed % 4 == 0 else raw_chunk(seed, 300 + 200 * seed) for seed in range(150)]
NEW = [raw_chunk(1000 + seed, 30_000) for seed in range(200)]

FINE, OUR_ERROR, WRONG_BYTE, OTHER_ERROR = 0, 10, 11, 12


def build(store: Path) -> None:
    """A store with pins, ghosts, reads and free pages."""
    with ChunkStore.open(store, QUOTA) as opened:
        opened.put([raw_chunk(5000 + seed) for seed in range(900)])
        opened.clear()
        opened.put(KEPT)
        opened.pin("mount", [chunk.digest for chunk in KEPT[:20]])
        opened.get([wanted(chunk) for chunk in KEPT[40:80]])
        opened.put([raw_chunk(7000 + seed) for seed in range(100)])


def use(store: Path, strict: bool) -> int:
    """Everything a mount does with a store."""
    try:
        with ChunkStore.open(store, QUOTA) as opened:
            for batch in (KEPT, NEW, KEPT):
                got = opened.get([wanted(chunk) for chunk in batch])
                if any(plain not in (None, chunk.plain) for chunk, plain in zip(batch, got, strict=True)):
                    return WRONG_BYTE
                opened.put(batch)
            opened.unpin("mount")
            if strict and None in opened.get([wanted(chunk) for chunk in NEW[-20:]]):
                return OTHER_ERROR
    except CafsError as e:
        if strict:
            print("second use:", e, file=sys.stderr)
        return OUR_ERROR
    return FINE


def in_child(store: Path, *, strict: bool) -> int:
    """Exit code of a use; negative when a signal ended it."""
    child = os.fork()
    if child == 0:
        code = OTHER_ERROR
        try:
            signal.alarm(20)  # a ring of pages would be walked for ever
            code = use(store, strict)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tree_pages(store: Path) -> list[int]:
    """Pages that are no run of frame bytes: meta pages and LMDB's trees, also old copies of them."""
    content = data_file(store).read_bytes()
    return [
        offset // PAGE
        for offset in range(0, len(content), PAGE)
        if int.from_bytes(content[offset : offset + 8], "little") == offset // PAGE
        and content[offset + 10] & 0x0B
    ]


def damage(store: Path, rng: random.Random, pages: list[int]) -> str:
    """Do one of the things that disks do."""
    file = data_file(store)
    match rng.randrange(10):
        case 0:
            size = rng.randrange(file.stat().st_size)
            os.truncate(file, size)
            return f"cut to {size} bytes"
        case 1:
            page = rng.choice(pages)
            with file.open("r+b") as out:
                out.seek(page * PAGE)
                out.write(bytes(PAGE))
            return f"page {page} zeroed"
        case 2:
            here, there = rng.choice(pages), rng.choice(pages)
            with file.open("r+b") as both:
                both.seek(there * PAGE)
                content = both.read(PAGE)
                both.seek(here * PAGE)
                both.write(content)
            return f"page {there} written over page {here}"
        case _:
            offset = rng.choice(pages) * PAGE + rng.randrange(rng.choice((16, 200, PAGE)))
            mask = 1 << rng.randrange(8)
            flip(store, offset, mask)
            return f"byte {offset} (page {offset // PAGE}) xor {mask}"


def main() -> None:
    """Run the given number of variants."""
    logging.disable(logging.WARNING)
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    template, store = folder / "template", folder / "store"
    build(template)
    pages = tree_pages(template)
    tally: Counter[str] = Counter()
    for seed in range(count):
        rng = random.Random(seed)
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(template, store)
        done = damage(store, rng, pages)
        if rng.randrange(3) == 0:  # as after a crash
            (store / "users" / "999999999").touch()
        code = in_child(store, strict=False)
        tally["fine" if code == FINE else "error" if code == OUR_ERROR else "killed"] += 1
        if code in (WRONG_BYTE, OTHER_ERROR):
            sys.exit(f"variant {seed}, {done}: code {code}")
        if code != FINE and (again := in_child(store, strict=True)) != FINE:
            sys.exit(f"variant {seed}, {done}: first {code}, then {again}")
    print(dict(tally))


if __name__ == "__main__":
    main()
