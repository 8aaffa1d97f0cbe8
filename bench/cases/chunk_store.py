"""How quick the chunk store is, beside what could be had at best: decoding alone, and a plain file."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import zstandard

from bench.measure import clock, interleave, median
from bench.place import Place
from bench.report import Result, Row
from cafs.core.chunk import Chunk, Codec, FrameDecoder, chunk_digest
from cafs.store.chunk_store import ChunkStore
from demo.cold import drop_caches

T = TypeVar("T")

CHUNK_BYTES = 65536
DATA_BYTES = 256 << 20
QUOTA_BYTES = 1 << 30
BATCH = 32
THREADS = 2


def run_case(place: Place) -> Result:
    chunks = _chunks()
    plain_bytes, frame_bytes = _sizes(chunks)
    batches = [chunks[start : start + BATCH] for start in range(0, len(chunks), BATCH)]
    wanted = [[(chunk.digest, len(chunk.plain)) for chunk in batch] for batch in batches]
    place.say(f"{len(chunks)} chunks, {plain_bytes / 1e6:.0f} MB plain, {frame_bytes / 1e6:.0f} MB as frames")

    def put() -> float:
        with ChunkStore.open(place.fresh("store"), QUOTA_BYTES) as store:
            return clock(lambda: [store.put(chunks[at : at + 128]) for at in range(0, len(chunks), 128)])

    def get(*, cold: bool) -> float:
        if cold:
            drop_caches()
        with ChunkStore.open(place.path / "store", QUOTA_BYTES) as store:
            if not cold:
                _in_threads(store.get, wanted)
            return _in_threads(store.get, wanted)

    samples = interleave(
        {
            "put": put,
            "file": lambda: clock(lambda: _write(place.fresh("file"), chunks)),
            "get": lambda: get(cold=False),
            "decode": lambda: _in_threads(_decode, batches),
            "get cold": lambda: get(cold=True),
        },
        place.rounds,
    )
    rate = {name: plain_bytes / median(seconds) / 1e6 for name, seconds in samples.items()}
    return Result(
        "chunk_store",
        "The chunk store",
        f"Chunks of 64 KiB of this Python's files ({plain_bytes / 1e6:.0f} MB, as zstd frames"
        f" {frame_bytes / 1e6:.0f} MB), MB/s of plain bytes. put: 128 chunks a call, synced. get: {THREADS}"
        f" threads, {BATCH} chunks a call, every chunk decompressed and its digest checked. Rivals: the"
        " frames written to one file and synced; the same frames decoded and checked from memory.",
        (
            _row("put", rate["put"], ("file", rate["file"]), 300),
            _row("get, in the page cache", rate["get"], ("decoding alone", rate["decode"]), 1200),
            _row("get, page cache cold", rate["get cold"], ("decoding alone", rate["decode"]), 600),
        ),
        samples,
    )


def _row(what: str, ours: float, rival: tuple[str, float], at_least: int) -> Row:
    name, theirs = rival
    return Row(
        what,
        f"{ours:.0f} MB/s",
        f"{name} {theirs:.0f} MB/s",
        f"{ours / theirs:.2f}",
        f"at least {at_least} MB/s",
        ours >= at_least,
    )


def _chunks() -> list[Chunk]:
    """What a Python image consists of: installed packages, the standard library, the system's libraries."""
    found: dict[bytes, Chunk] = {}
    compressor = zstandard.ZstdCompressor(level=3)
    total = 0
    for path in _files():
        content = path.read_bytes()
        for start in range(0, len(content) - CHUNK_BYTES, CHUNK_BYTES):
            plain = content[start : start + CHUNK_BYTES]
            frame = compressor.compress(plain)
            raw = len(frame) >= len(plain)
            digest = chunk_digest(plain)
            found[digest] = Chunk(digest, Codec.RAW if raw else Codec.ZSTD, plain if raw else frame, plain)
            total += CHUNK_BYTES
        if total > DATA_BYTES:
            break
    return list(found.values())


def _files() -> list[Path]:
    folders = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("stdlib"),
        f"{sys.base_prefix}/bin",
        "/usr/lib",
    ]
    return [
        path
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]


def _sizes(chunks: Sequence[Chunk]) -> tuple[int, int]:
    return sum(len(chunk.plain) for chunk in chunks), sum(len(chunk.frame) for chunk in chunks)


def _in_threads(action: Callable[[T], object], items: Sequence[T]) -> float:
    with ThreadPoolExecutor(THREADS) as pool:
        return clock(lambda: all(done is None for done in pool.map(lambda item: _drop(action(item)), items)))


def _drop(_result: object) -> None:
    """Results are let go at once, as a reader lets its pages go: keeping them all measures malloc."""


def _decode(batch: Sequence[Chunk]) -> None:
    decoder = FrameDecoder()
    for chunk in batch:
        decoder.decode(chunk.digest, chunk.codec, chunk.frame, len(chunk.plain))


def _write(path: Path, chunks: Sequence[Chunk]) -> None:
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            file.write(chunk.frame)
        os.fsync(file.fileno())
