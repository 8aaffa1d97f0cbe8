"""From a journal of failures to words: which files a chunk holds, who was asked, what each answered.

Used by ``cafs explain``. Reads the journal and layer indexes on the local disk; asks no source anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from stat import S_ISDIR, S_ISREG

from cafs.core.backoff import attribute
from cafs.fetch.journal import Failure
from cafs.index.browse import show_name, walk
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import MergedTree, Stack
from cafs.index.reader import ErofsReader

MAX_FILES = 5
"""Named for one chunk: a pack of small files can hold hundreds."""


@dataclass(frozen=True, slots=True)
class FailedChunk:
    """Everything the journal says of one chunk."""

    failures: tuple[Failure, ...]
    """Oldest first."""
    files: tuple[str, ...]
    """Some of the files of the layer that it holds bytes of."""
    more_files: int

    @property
    def last(self) -> Failure:
        """The newest failure."""
        return self.failures[-1]


def group_failures(failures: Iterable[Failure]) -> dict[tuple[str, str], list[Failure]]:
    """By (layer, chunk), in the order in which each chunk failed last."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        key = failure.layer, failure.chunk
        groups[key] = [*groups.pop(key, []), failure]
    return groups


def files_of_chunks(index: LayerIndex, chunks: Iterable[str]) -> dict[str, list[str]]:
    """Which regular files of a layer have bytes in these chunks (BLAKE3 in hex), by chunk.

    Raises:
        IntegrityError: the index is damaged.
    """
    wanted = {bytes.fromhex(chunk) for chunk in chunks}
    ranges = [
        (index.table.end(row), index.table.start(row), ref.digest.hex())
        for row in range(len(index.table))
        if (ref := index.table.row(row)).digest in wanted
    ]
    ends = [end for end, _, _ in ranges]
    found: dict[str, list[str]] = {}
    for path, begin, end in _file_runs(ErofsReader(index.metadata, index.virtual_bytes)):
        for place in range(bisect_left(ends, begin + 1), len(ranges)):
            _, chunk_begin, chunk = ranges[place]
            if chunk_begin >= end:
                break
            files = found.setdefault(chunk, [])
            if path not in files[-1:]:
                files.append(path)
    return found


def chunks_of_file(index: LayerIndex, nid: int) -> set[str]:
    """The chunks (BLAKE3 in hex) that a regular file of the layer has bytes in.

    Raises:
        IntegrityError: the index is damaged.
    """
    runs = ErofsReader(index.metadata, index.virtual_bytes).extents(nid)
    if isinstance(runs, bytes):
        return set()
    chunks: set[str] = set()
    for _, begin, length in runs:
        first, last = index.table.find(begin), index.table.find(begin + length - 1)
        chunks.update(index.table.row(row).digest.hex() for row in range(first, last + 1))
    return chunks


def chunks_below(indexes: Sequence[LayerIndex], tree: MergedTree, top: Stack) -> set[tuple[int, str]]:
    """(layer, chunk) of all that is seen at ``top`` and below it: what lower layers have there too does not
    count.

    Args:
        indexes: Of the image's layers, lowest first.
        tree: They as one.
        top: A file or directory in it.

    Raises:
        IntegrityError: an index is damaged.
    """
    return {
        (seen.layer, chunk)
        for _, (seen, *_) in walk(tree, top)
        if S_ISREG(tree.reader(seen.layer).mode(seen.nid))
        for chunk in chunks_of_file(indexes[seen.layer], seen.nid)
    }


def describe_chunk(chunk: FailedChunk) -> str:
    """A few lines for people."""
    last = chunk.last
    times = "once" if len(chunk.failures) == 1 else f"{len(chunk.failures)} times, last"
    lines = [
        f"chunk {last.chunk[:16]} of layer {last.layer}",
        f"  files:   {_files(chunk)}",
        f"  failed:  {times} at {_clock(last.at)}, after {last.waited_s:.1f} s",
        f"  wanted:  bytes {last.offset} to {last.offset + last.length} of blob {last.blob}",
    ]
    answers = Counter((answer.source, answer.message) for answer in last.answers)
    for (source, message), count in answers.items():
        lines.append(f"  asked:   {attribute(message, source)}" + (f" ({count} times)" if count > 1 else ""))
    if not answers:
        lines.append("  asked:   nobody had answered yet")
    lines.append(f"  outcome: {last.reason}")
    return "\n".join(lines)


def describe_all(chunks: Sequence[FailedChunk]) -> str:
    """The whole explanation, newest failure last."""
    if not chunks:
        return "no read has failed"
    count = sum(len(chunk.failures) for chunk in chunks)
    of = "one chunk" if len(chunks) == 1 else f"{len(chunks)} chunks"
    head = f"{count} failed reads of {of}" if count > 1 else "1 failed read"
    return "\n\n".join([head, *map(describe_chunk, chunks)])


def _file_runs(reader: ErofsReader) -> Iterator[tuple[str, int, int]]:
    """(path for people, begin, end in the virtual image) of all runs of all regular files."""
    pending, seen = [(b"", reader.root_nid)], {reader.root_nid}
    while pending:
        parent, nid = pending.pop()
        for name, child, _ in reader.entries(nid):
            path, mode = parent + b"/" + name, reader.mode(child)
            if S_ISDIR(mode) and child not in seen:
                seen.add(child)
                pending.append((path, child))
            elif S_ISREG(mode):
                runs = reader.extents(child)
                if not isinstance(runs, bytes):
                    for _, begin, length in runs:
                        yield show_name(path), begin, begin + length


def _files(chunk: FailedChunk) -> str:
    if not chunk.files:
        return "not known (the layer's index is not in the cache any more)"
    return ", ".join(chunk.files) + (f" and {chunk.more_files} more" if chunk.more_files else "")


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
