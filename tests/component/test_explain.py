"""From a failed read to words: the journal, the files of a chunk, the answers of the sources."""

from __future__ import annotations

import json
import os
import stat
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.backoff import Answer
from cafs.core.chunk import ChunkRef, Codec
from cafs.core.digest import sha256_digest
from cafs.core.entry import Extent, Meta
from cafs.core.settings import Settings
from cafs.core.source import BlobRef
from cafs.errors import IntegrityError, RemoteError
from cafs.fetch.explain import (
    FailedChunk,
    chunks_of_file,
    describe_all,
    files_of_chunks,
    group_failures,
)
from cafs.fetch.flights import Flight, Origin
from cafs.fetch.journal import FILE_NAME, FULL_BYTES, MOST_UNWRITTEN, Journal, read_journal
from cafs.fetch.limits import Priority
from cafs.index.header import ChunkingOptions
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.index.tree import LayerTree
from cafs.index.writer import write_index
from cafs.node.mount_state import MountDirectory, MountedImage, MountedLayer, MountRequest
from tests.support.fetching import ScriptedSource
from tests.support.logs import ExpectedLogs
from tests.support.program import Outcome, run_cafs
from tests.support.trees import index_bytes

FILE, DIRECTORY = Meta(stat.S_IFREG | 0o644), Meta(stat.S_IFDIR | 0o755)
DIGESTS = [bytes([n]) * 32 for n in range(3)]


@pytest.fixture
def index(tmp_path: Path) -> LayerIndex:
    """Chunk 0 holds a and the first half of b, chunk 1 the second half, chunk 2 c and an evil name."""
    tree = LayerTree()
    tree.add_directory(b"d", DIRECTORY)
    tree.add_file(b"d/a", FILE, 4096, [Extent(0, 0, 4096)])
    tree.add_file(b"d/b", FILE, 8192, [Extent(0, 4096, 8192)])
    tree.add_file(b"c", FILE, 4000, [Extent(0, 12288, 4000)])
    tree.add_file(b"\x1b[2J", FILE, 4000, [Extent(0, 12288, 4000)])
    tree.add_file(b"tiny", FILE, 4, content=b"tiny")
    ends, start, rows = (8192, 12288, 16384), 0, []
    for digest, end in zip(DIGESTS, ends, strict=True):
        rows.append((end, ChunkRef(digest, end - start, 0, start, end - start, Codec.RAW)))
        start = end
    path = tmp_path / "layer.index"
    with path.open("w+b") as file:
        write_index(
            file,
            tree,
            rows,
            [BlobRef(sha256_digest(b"blob"), 16384)],
            data_bytes=16384,
            diff_id=bytes(32),
            options=ChunkingOptions(4096, 8192, 16384, 3),
        )
    return LayerIndex.open(path)


def flight() -> Flight:
    source = ScriptedSource(b"", name="docker://registry.example/app")
    origin = Origin("sha256:layer", BlobRef(sha256_digest(b"blob"), 16384), (source,))
    return Flight(ChunkRef(DIGESTS[0], 8192, 0, 0, 8192, Codec.RAW), origin, Priority.DEMAND)


def test_files_and_chunks_find_each_other(index: LayerIndex) -> None:
    names = files_of_chunks(index, [digest.hex() for digest in DIGESTS])
    assert {chunk[:2]: sorted(files) for chunk, files in names.items()} == {
        "00": ["/d/a", "/d/b"],
        "01": ["/d/b"],
        "02": ["/\\x1b[2J", "/c"],
    }
    reader = ErofsReader(index.metadata, index.virtual_bytes)
    directory = reader.lookup(reader.root_nid, b"d")
    assert directory is not None
    nid = reader.lookup(directory, b"b")
    tiny = reader.lookup(reader.root_nid, b"tiny")
    assert nid is not None
    assert tiny is not None
    assert chunks_of_file(index, nid) == {DIGESTS[0].hex(), DIGESTS[1].hex()}
    assert chunks_of_file(index, tiny) == set()


async def test_the_words_name_chunk_files_sources_and_answers(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("read failed")
    journal, failed = Journal(tmp_path / "journal"), flight()
    failed.answers += [Answer(0, "docker://registry.example/app", RemoteError("503 busy"), 1.0)] * 3
    told = RemoteError("docker://registry.example/app: blob 1 bytes 0-9: gone away")
    failed.answers.append(Answer(0, "docker://registry.example/app", told, 1.0))
    await journal.record(failed, at=1_800_000_000.0, waited_s=60.0, reason="it did not come")
    await journal.record(failed, at=1_800_000_060.0, waited_s=60.0, reason="it did not come")
    groups = group_failures(read_journal(tmp_path / "journal"))
    chunks = [FailedChunk(tuple(group), ("/d/a", "/d/b"), 3) for group in groups.values()]
    text = describe_all(chunks)
    assert "2 failed reads of one chunk" in text
    assert "/d/a, /d/b and 3 more" in text
    assert "docker://registry.example/app: 503 busy (3 times)" in text
    assert "asked:   docker://registry.example/app: blob 1 bytes 0-9: gone away\n" in text
    assert "bytes 0 to 8192" in text
    assert describe_all([]) == "no read has failed"


def held_bytes(folder: Path) -> int:
    """What the files in a folder take."""
    return sum(file.stat().st_size for file in folder.iterdir())


async def test_the_journal_is_a_ring_and_survives_a_torn_line(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("read failed")
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in range(3000):
        await journal.record(flight(), at=float(number), waited_s=0.0, reason="x" * 200)
    assert held_bytes(tmp_path) < 2 * FULL_BYTES + 4096
    with path.open("a") as file:
        file.write('{"at": 3000.0, "lay')
    assert read_journal(path)[-1].at == 2999.0
    path.write_text('{"something": "else"}\n')
    with pytest.raises(IntegrityError, match="not a journal"):
        read_journal(path)


async def test_a_full_disk_ends_the_journal_with_one_warning(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("read failed")
    expected_logs.expect("no longer written")
    journal = Journal(tmp_path / "missing" / "journal")
    await journal.record(flight(), at=0.0, waited_s=0.0, reason="x")
    await journal.record(flight(), at=100.0, waited_s=0.0, reason="x")


async def test_a_disk_that_hangs_holds_up_nobody(
    tmp_path: Path, expected_logs: ExpectedLogs, autojump_clock: trio.testing.MockClock
) -> None:
    expected_logs.expect("read failed")
    path = tmp_path / "journal"
    os.mkfifo(path)  # who opens it waits until somebody reads it
    journal = Journal(path)
    for number in range(MOST_UNWRITTEN + 9):
        await journal.record(flight(), at=float(number), waited_s=0.0, reason="x")
    written = await trio.to_thread.run_sync(path.read_text)
    assert [json.loads(line)["at"] for line in written.splitlines()] == list(range(MOST_UNWRITTEN))
    await journal.written()


class MountedCase:
    """A mount's state as a server writes it, with one failed read of chunk 0."""

    def __init__(self, tmp_path: Path, index: Path) -> None:
        self.run_dir, self.target = tmp_path / "run", tmp_path / "image"
        settings = Settings(cache_dir=tmp_path / "cache", run_dir=self.run_dir)
        directory = MountDirectory.of(self.run_dir, self.target)
        directory.path.mkdir(parents=True)
        directory.write_request(
            MountRequest(
                source="docker://registry.example/app",
                target=self.target,
                driver="fuse",
                platform=None,
                prefetch="none",
                record=None,
                trusted=False,
                settings=settings,
            )
        )
        self._directory = directory
        self._layers = (MountedLayer(index=index, layer_digest="sha256:x", diff_id="sha256:layer"),)
        self._write_layers()
        failed = flight()
        failed.answers.append(Answer(0, "docker://registry.example/app", RemoteError("503 busy"), 1.0))
        journal = Journal(directory.path / FILE_NAME)
        tell = partial(journal.record, at=1_800_000_000.0, waited_s=60.0, reason="chunk did not come")
        trio.run(tell, failed)

    def cover_with(self, index: Path) -> None:
        """Put another layer on top, none of whose chunks failed."""
        layer = MountedLayer(index=index, layer_digest="sha256:y", diff_id="sha256:upper")
        self._layers = (*self._layers, layer)
        self._write_layers()

    def _write_layers(self) -> None:
        self._directory.write_image(MountedImage(name="app", manifest_digest="sha256:m", layers=self._layers))

    def explain(self, path: Path, *options: str, code: int = 0) -> Outcome:
        return run_cafs("explain", path, *options, env={"CAFS_RUN_DIR": str(self.run_dir)}, code=code)


def test_the_command_tells_of_a_mount_and_of_a_file(
    tmp_path: Path, index: LayerIndex, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("read failed")
    mounted = MountedCase(tmp_path, tmp_path / "layer.index")
    everything = mounted.explain(mounted.target).out
    assert "files:   /d/a, /d/b" in everything
    assert "docker://registry.example/app: 503 busy" in everything
    assert mounted.explain(mounted.target / "d/b", "--json").json[0]["files"] == ["/d/a", "/d/b"]
    assert mounted.explain(mounted.target / "c").out == "no read has failed\n"
    (tmp_path / "link").symlink_to(mounted.target)
    assert "503 busy" in mounted.explain(tmp_path / "link/d/a").out
    assert "no file /nowhere" in mounted.explain(mounted.target / "nowhere", code=2).err
    assert "not below a mount point" in mounted.explain(tmp_path, code=2).err


@pytest.mark.parametrize("hides", [False, True])
def test_a_directory_means_all_that_is_seen_below_it(
    tmp_path: Path, index: LayerIndex, expected_logs: ExpectedLogs, hides: bool
) -> None:
    """The failed chunk holds the lower layer's d/a and d/b."""
    expected_logs.expect("read failed")
    mounted = MountedCase(tmp_path, tmp_path / "layer.index")
    assert mounted.explain(mounted.target / "d", "--json").json[0]["files"] == ["/d/a", "/d/b"]
    tree = LayerTree()
    tree.add_directory(b"d", DIRECTORY)
    tree.add_file(b"d/a", FILE, 5, content=b"fresh")
    tree.add_symlink(b"link", Meta(stat.S_IFLNK | 0o777), b"d/b")
    if hides:
        tree.opaque(b"d")
    (tmp_path / "upper.index").write_bytes(index_bytes(tree, b"", 8192, bytes(32)))
    mounted.cover_with(tmp_path / "upper.index")
    told = {name: mounted.explain(mounted.target / name).out for name in ("d", "d/a")}
    assert told["d/a"] == "no read has failed\n"
    assert (told["d"] == "no read has failed\n") is hides
    if not hides:
        assert mounted.explain(mounted.target / "link").out == told["d"]


def test_the_command_does_without_the_index(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("read failed")
    mounted = MountedCase(tmp_path, tmp_path / "gone.index")
    assert "not known" in mounted.explain(mounted.target).out
