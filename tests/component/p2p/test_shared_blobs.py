"""How long a host stays in the swarms of blobs, and that it is back in them after a restart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.digest import Digest
from cafs.core.source import BlobRef
from cafs.core.swarm.ids import HostId
from cafs.p2p import shared_blobs
from cafs.p2p.membership import ChunkMember, ChunkSwarm
from cafs.p2p.shared_blobs import KEEP_S, LEAVE_S, LOOK_S, SharedBlobs, read_blobs
from tests.support.chunk_swarm import TASK, swarm, wish_for
from tests.support.fetching import MemoryLayer, ScriptedSource
from tests.support.logs import ExpectedLogs

REPOSITORY = "registry.example/app"
DAY_S = 86400.0


def blob(number: int) -> BlobRef:
    return BlobRef(Digest(f"sha256:{number:064x}"), 1000 + number)


class Swarms:
    """A ``Membership`` in swarms whose owners the test names."""

    def __init__(self) -> None:
        self.host_id = HostId("a" * 32)
        self.here: set[BlobRef] = set()
        self.owned: set[BlobRef] = set()

    async def swarm(self, blob: BlobRef, repository: str) -> ChunkSwarm:
        assert repository == REPOSITORY
        self.here.add(blob)
        await trio.lowlevel.checkpoint()
        return ChunkSwarm(TASK, (), blob in self.owned)

    def leave(self, blob: BlobRef) -> None:
        self.here.remove(blob)

    def note_wrong(self, blob: BlobRef, member: ChunkMember) -> None:
        raise AssertionError


@asynccontextmanager
async def running(swarms: Swarms, path: Path | None = None) -> AsyncIterator[SharedBlobs]:
    shared = SharedBlobs(swarms, path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.run)
        yield shared
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110 - of files and a table there is no event
            await trio.sleep(0.01)


async def pass_by(clock: trio.testing.MockClock, seconds: float) -> None:
    """Time goes by, and is looked at."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(LOOK_S)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_swarm_that_was_left_is_not_joined_by_what_still_runs() -> None:
    """A wish under way when its blob was blocked; nobody would leave it a second time."""
    swarms = Swarms()
    async with running(swarms) as shared:
        joined = shared.join(blob(1), REPOSITORY)
        known = await shared.swarm(joined)
        shared.leave(blob(1))
        assert await shared.swarm(joined) == known
        assert swarms.here == set()


async def test_only_owners_stay_longer_than_they_use_it(mock_clock: trio.testing.MockClock) -> None:
    swarms = Swarms()
    async with running(swarms) as shared:
        for number in range(3):
            await shared.swarm(shared.join(blob(number), REPOSITORY))
        swarms.owned = {blob(0), blob(1)}
        await pass_by(mock_clock, LEAVE_S - 3 * LOOK_S)
        assert swarms.here == {blob(0), blob(1), blob(2)}
        await pass_by(mock_clock, 3 * LOOK_S)
        assert swarms.here == swarms.owned
        assert shared.used(blob(2)) is None
        await pass_by(mock_clock, 6 * DAY_S)
        assert shared.used(blob(1)) is not None  # another host asks for some of it
        await pass_by(mock_clock, KEEP_S - 6 * DAY_S)
        assert swarms.here == {blob(1)}
        swarms.owned = set()
        await pass_by(mock_clock, LEAVE_S)
        assert swarms.here == set()


async def test_the_least_used_go_of_too_many(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarms = Swarms()
    async with running(swarms) as shared:
        for number in range(4):
            mock_clock.jump(1)
            await shared.swarm(shared.join(blob(number), REPOSITORY))
        shared.used(blob(0))
        monkeypatch.setattr(shared_blobs, "MOST_BLOBS", 2)
        await pass_by(mock_clock, LOOK_S)
        assert swarms.here == {blob(0), blob(3)}


async def test_a_host_is_back_in_its_swarms_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "shared.json"
    before, after, much_later = Swarms(), Swarms(), Swarms()
    before.owned = {blob(1), blob(2)}
    async with running(before, path) as shared:
        for number in (1, 2):
            await shared.swarm(shared.join(blob(number), REPOSITORY))
        await until(lambda: len(read_blobs(path)) == 2)
    async with running(after, path) as shared:
        await until(lambda: after.here == {blob(1), blob(2)})
    document = json.loads(path.read_text())
    document["blobs"][0]["used_at"] -= KEEP_S
    path.write_text(json.dumps(document))
    async with running(much_later, path) as shared:
        await until(lambda: much_later.here)
        assert much_later.here == {blob(2)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "cafs-test-disk", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", buffering=0) as file, suppress(OSError):  # that no space is left
        while file.write(bytes(4096)):
            pass


async def test_on_a_full_disk_a_host_is_back_all_the_same(small_disk: Path) -> None:
    path = small_disk / "shared.json"
    before, after = Swarms(), Swarms()
    async with running(before, path) as shared:
        await shared.swarm(shared.join(blob(1), REPOSITORY))
        await until(lambda: len(read_blobs(path)) == 1)
        fill(small_disk)
        await shared.swarm(shared.join(blob(2), REPOSITORY))
        await until(lambda: len(read_blobs(path)) == 2)
    async with running(after, path):
        await until(lambda: after.here == {blob(1), blob(2)})


async def test_what_cannot_be_written_down_is_later(
    small_disk: Path,
    expected_logs: ExpectedLogs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_logs.expect("cannot be written: No space left")
    monkeypatch.setattr(shared_blobs, "LOOK_S", 0.05)
    path = small_disk / "shared.json"
    async with running(Swarms(), path) as shared:
        await until(path.exists)
        fill(small_disk)
        for number in range(300):
            await shared.swarm(shared.join(blob(number), REPOSITORY))
        await until(lambda: "cannot be written" in caplog.text)
        (small_disk / "ballast").unlink()
        await until(lambda: len(read_blobs(path)) == 300)


def _row(used_at: bytes) -> bytes:
    digest = b"sha256:" + b"1" * 64
    row = b'{"digest": "%s", "size": 1, "repository": "r", "used_at": %s}' % (digest, used_at)
    return b'{"version": 1, "blobs": [%s]}' % row


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "blobs": []}',
        b'{"version": 1}',
        b'{"version": 1, "blobs": [{"digest": "sha256:1", "size": 1, "repository": "r", "used_at": 0}]}',
        b'{"version": 1, "blobs": [{"digest": 7, "size": 1, "repository": "r", "used_at": 0}]}',
        b'{"version": 1, "blobs": [7]}',
        _row(b"1" + b"0" * 400),
        _row(b"NaN"),
        _row(b"-1"),
        _row(b'"x"'),
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_as_none(tmp_path: Path, expected_logs: ExpectedLogs, content: bytes) -> None:
    path = tmp_path / "shared.json"
    path.write_bytes(content)
    expected_logs.expect("cannot be read")
    assert read_blobs(path) == []


async def test_a_newcomer_gets_all_of_a_restarted_host_that_asks_for_nothing(tmp_path: Path) -> None:
    layer = MemoryLayer([128 << 10] * 12)
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 2) as ((old, _), _):
        await old.exchange.bring(wish_for(layer))
        await until(lambda: all(old.stored(layer)))
        await until(lambda: read_blobs(old.directory / "shared.json"))
    source.requests.clear()
    async with swarm(tmp_path, source, 2) as ((old, new), table):
        await until(lambda: old.id in table.members)
        frames = await new.exchange.bring(wish_for(layer))
        assert [bytes(frame) for frame in frames if frame is not None] == layer.frames
        assert not source.requests


async def test_an_owner_that_has_all_of_a_blob_is_in_use_as_long_as_others_ask_it(tmp_path: Path) -> None:
    layer = MemoryLayer([64 << 10] * 2)
    async with swarm(tmp_path, ScriptedSource(layer.blob), 1) as ([owner], _):
        await owner.exchange.bring(wish_for(layer))
        await until(lambda: all(owner.stored(layer)))
        shared = owner.shared.used(layer.blobs[0])
        assert shared is not None
        shared.used_at = before = trio.current_time() - DAY_S
        assert None not in await owner.exchange.serve(wish_for(layer))
        assert shared.used_at > before
