"""Uses a store as hard as it can, in a process of its own; run as ``python -m tests.component.store.hammer``.

work DIR QUOTA SEED ROUNDS   put, get, pin and unpin at random, check every byte; a dot for each round
crash DIR QUOTA TIMES        fork a worker, kill -9 it after some dots, again and again
hold DIR QUOTA               open a read transaction, say so, and stay in it
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cafs.core.chunk import Chunk
from cafs.store.chunk_store import ChunkStore
from tests.component.store.chunks import raw_chunk, wanted, zstd_chunk

POOL = 1500


def work(directory: Path, quota: int, seed: int, rounds: int, dot: Callable[[], object]) -> None:
    """The rounds of one worker. Raises when a byte is wrong."""
    rng = random.Random(seed)
    with ChunkStore.open(directory, quota) as store:
        for _ in range(rounds):
            picked = [_chunk(rng.randrange(POOL)) for _ in range(rng.randrange(1, 40))]
            match rng.randrange(8):
                case 0:
                    store.pin(f"set{rng.randrange(3)}", [chunk.digest for chunk in picked[:5]])
                case 1:
                    store.unpin(f"set{rng.randrange(3)}")
                case 2 | 3 | 4:
                    store.put(picked)
                case _:
                    got = store.get([wanted(chunk) for chunk in picked])
                    for chunk, plain in zip(picked, got, strict=True):
                        assert plain is None or plain == chunk.plain, "a wrong byte"
            dot()


def _chunk(number: int) -> Chunk:
    return zstd_chunk(number) if number % 5 == 0 else raw_chunk(number, 500 + number * 31)


def crash(directory: Path, quota: int, times: int) -> None:
    """Kill a worker so many times; ends with an error when one failed by itself."""
    rng = random.Random(11)
    for seed in range(times):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            _child(directory, quota, seed, write_end)
        os.close(write_end)
        seen = 0
        # Some workers die while they open the store (before the first dot), some later.
        dots = rng.randrange(12)
        while seen < dots:
            got = os.read(read_end, 1)
            if not got:
                sys.exit(f"worker {seed} ended by itself")
            seen += 1
        for _ in range(rng.randrange(3000)):  # not always at the same place between two dots
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)


def _child(directory: Path, quota: int, seed: int, out: int) -> None:
    try:
        work(directory, quota, seed, 10_000, lambda: os.write(out, b"."))
    finally:
        os._exit(1)


def hold(directory: Path, quota: int) -> None:
    """Stay inside a read transaction until killed."""
    with ChunkStore.open(directory, quota) as store, store._session.read():
        print("holding", flush=True)
        signal.pause()


def main() -> None:
    """Run what the command line says."""
    logging.basicConfig(level=logging.WARNING)
    name, directory, quota, *numbers = sys.argv[1:]
    where, size = Path(directory), int(quota)
    if name == "work":
        seed, rounds = map(int, numbers)
        work(where, size, seed, rounds, lambda: None)
    elif name == "crash":
        crash(where, size, int(numbers[0]))
    else:
        hold(where, size)


if __name__ == "__main__":
    main()
