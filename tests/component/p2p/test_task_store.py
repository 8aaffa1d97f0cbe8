"""Tasks on the disk: nothing unverified in or out, quota and eviction, what restarts and rot leave."""

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import blake3
import pytest
import trio
import trio.testing

from cafs.core.digest import Digest
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.news import News
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.errors import NotFoundError, StateError, StorageError
from cafs.p2p.recent_pieces import RecentPieces
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_files import NewPiece, Record, decode_record, encode_record
from cafs.p2p.task_store import TaskStore, open_task_store
from cafs.p2p.whole_digest import WholeDigest
from tests.support.grid import until
from tests.support.logs import ExpectedLogs

MIB = 1 << 20
CONTENT = random.Random(4).randbytes(2 * MIB + 1000)
PIECES = [CONTENT[at : at + MIB] for at in range(0, len(CONTENT), MIB)]
DIGESTS = [blake3.blake3(piece).digest() for piece in PIECES]
META = TaskMeta(Layout(len(CONTENT), MIB), (("etag", '"1"'),), 5.0)


def spec(letter: str) -> TaskSpec:
    return TaskSpec(task_id=TaskId(letter * 64), url="http://h/p", tag="t", filtered_query=("x",))


def opened(directory: Path, quota_mib: int = 64) -> AbstractAsyncContextManager[TaskStore]:
    return open_task_store(directory / "tasks", quota_mib << 20)


async def filled(store: TaskStore, letter: str) -> StoredTask:
    task = await store.take(spec(letter))
    task.set_meta(META)
    assert await task.put_pieces([NewPiece(n, piece) for n, piece in enumerate(PIECES)]) == [None] * 3
    return task


async def test_what_is_put_is_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        task = await filled(store, "a")
        assert [await task.read_piece(n) for n in range(3)] == PIECES
        assert [task.digest(n) for n in range(3)] == DIGESTS
        assert task.complete
        assert not task.whole
        assert store.used_bytes == len(CONTENT)


async def test_a_piece_that_is_corrected_is_hashed_anew(tmp_path: Path) -> None:
    """The digest of the whole was behind it already: it is no wrong content for that."""
    digest = Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
    async with opened(tmp_path) as store, trio.open_nursery() as nursery:
        task = await store.take(spec("a"))
        task.set_meta(META)
        found: list[bool] = []

        async def hash_all() -> None:
            found.append(await WholeDigest(task, digest).run())

        assert await task.put_pieces([NewPiece(0, bytes(MIB)), NewPiece(1, PIECES[1])]) == [None, None]
        nursery.start_soon(hash_all)
        await trio.testing.wait_all_tasks_blocked(0.05)
        task.correct_digest(0, DIGESTS[0])
        assert await task.put_pieces([NewPiece(2, PIECES[2])]) == [None]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await task.put_pieces([NewPiece(0, PIECES[0])]) == [None]
        await until(lambda: bool(found))
    assert found == [True]


async def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        task = await store.take(spec("a"))
        task.set_meta(META)
        assert task.learn_digest(1, DIGESTS[1])
        assert not task.learn_digest(1, DIGESTS[0])
        wrong = await task.put_pieces(
            [
                NewPiece(0, PIECES[1], DIGESTS[0]),
                NewPiece(1, PIECES[0]),
                NewPiece(2, PIECES[2] + b"x"),
                NewPiece(3, b"x"),
            ]
        )
        assert all(wrong)
        assert not len(task.have)
        with pytest.raises(NotFoundError):
            await task.read_piece(0)


async def test_a_restart_finds_it_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        task = await store.take(spec("a"))
        task.set_meta(META)
        await task.put_pieces([NewPiece(2, PIECES[2])])
    async with opened(tmp_path) as store:
        [task] = store.tasks()
        assert task.spec == spec("a")
        assert task.meta == META
        assert list(task.have) == [2]
        assert await task.read_piece(2) == PIECES[2]
        assert store.used_bytes == 1000


async def test_rot_is_found_and_dropped(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("has rotted")
    async with opened(tmp_path) as store:
        task = await filled(store, "a")
        task.mark_whole()
        with (tmp_path / "tasks" / task.id / "data").open("r+b") as file:
            file.seek(MIB + 5)
            file.write(b"rot")
        with pytest.raises(NotFoundError):
            await task.read_piece(1)
        assert list(task.have) == [0, 2]
        assert not task.whole
        assert store.used_bytes == len(CONTENT) - MIB
        assert await task.put_pieces([NewPiece(1, PIECES[1])]) == [None]
        assert await task.read_piece(1) == PIECES[1]


async def test_what_was_just_written_is_read_from_memory(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("has rotted")
    async with opened(tmp_path) as store:
        task = await store.take(spec("a"))
        with task.use():
            await filled(store, "a")
            (tmp_path / "tasks" / task.id / "data").write_bytes(b"rot" * MIB)
            assert [await task.read_piece(n) for n in range(3)] == PIECES
            task.correct_digest(1, DIGESTS[0])  # whoever knows better is believed, and the piece is no more
            with pytest.raises(NotFoundError):
                await task.read_piece(1)
        with pytest.raises(NotFoundError):
            await task.read_piece(0)


def test_recent_pieces_are_few() -> None:
    recent, task, other = RecentPieces(10), TaskId("a" * 64), TaskId("b" * 64)
    for number in range(3):
        recent.put(task, number, bytes(4))
    assert [recent.get(task, number) for number in range(3)] == [None, bytes(4), bytes(4)]
    recent.put(task, 1, bytes(6))
    recent.put(other, 1, bytes(5))
    assert [recent.get(task, number) for number in range(3)] == [None, None, None]
    recent.forget(other)
    recent.put(task, 0, bytes(10))
    assert recent.get(task, 0) == bytes(10)
    recent.put(task, 1, bytes(11))
    assert recent.get(task, 1) is None


@pytest.mark.parametrize("damage", [b"", b"{}", None])
async def test_a_damaged_record_is_removed(
    tmp_path: Path, damage: bytes | None, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("record of a task is damaged")
    async with opened(tmp_path) as store:
        await filled(store, "a")
        await filled(store, "b")
    record = tmp_path / "tasks" / ("a" * 64) / "record"
    record.write_bytes(record.read_bytes()[:-1] if damage is None else damage)
    async with opened(tmp_path) as store:
        assert [task.id[0] for task in store.tasks()] == ["b"]
        assert not record.parent.exists()


async def test_a_reader_makes_no_record_be_written_again_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        task = await filled(store, "a")
        await store.save_all()
        before = task.used_at_s
        await task.read_piece(2)
        assert task.used_at_s > before
        assert not task.dirty


async def test_what_was_used_last_stays(tmp_path: Path) -> None:
    async with opened(tmp_path, quota_mib=7) as store:
        first, second = await filled(store, "a"), await filled(store, "b")
        await filled(store, "c")
        await first.read_piece(0)
        with first.use():
            await filled(store, "d")
            assert await store.lost() == ["b", "c"] or second.forgotten
        assert store.find(first.id) is first
        assert store.used_bytes <= 7 * MIB


async def test_a_store_full_of_what_is_in_use(tmp_path: Path) -> None:
    async with opened(tmp_path, quota_mib=4) as store:
        with (await filled(store, "a")).use():
            task = await store.take(spec("b"))
            task.set_meta(META)
            with pytest.raises(StorageError):
                await task.put_pieces([NewPiece(n, piece) for n, piece in enumerate(PIECES)])
        assert await task.put_pieces([NewPiece(n, piece) for n, piece in enumerate(PIECES)]) == [None] * 3


async def test_deleted_is_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        task = await filled(store, "a")
        assert await store.delete(task.id)
        assert not await store.delete(task.id)
        assert not list((tmp_path / "tasks").iterdir())
        with pytest.raises(NotFoundError):
            await task.read_piece(0)
        with pytest.raises(StateError):
            await task.put_pieces([NewPiece(0, PIECES[0])])
        assert await store.lost() == [task.id]
        assert store.used_bytes == 0


async def test_deleted_while_it_is_read(tmp_path: Path) -> None:
    """Whoever reads has his bytes, or hears that there are none: not that the disk is broken."""
    heard = set[bool]()

    async def read(task: StoredTask, number: int) -> None:
        try:
            heard.add(await task.read_piece(number) == PIECES[number])
        except NotFoundError:
            heard.add(True)

    async with opened(tmp_path) as store:
        for _ in range(20):
            task = await filled(store, "a")
            async with trio.open_nursery() as nursery:
                for number in (0, 1, 2, 0, 1, 2):
                    nursery.start_soon(read, task, number)
                nursery.start_soon(store.delete, task.id)
    assert heard == {True}


async def test_taken_anew_while_it_is_deleted(tmp_path: Path) -> None:
    """The new one is whole: what removes the old one's directory does not reach it."""
    read = list[bytes]()

    async def fill_and_read(store: TaskStore) -> None:
        task = await filled(store, "a")
        read.append(await task.read_piece(1))

    async with opened(tmp_path) as store:
        for _ in range(20):
            task = await filled(store, "a")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.delete, task.id)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(fill_and_read, store)
    assert read == [PIECES[1]] * 20


async def test_followers_hear_of_every_piece_once(tmp_path: Path) -> None:
    heard: list[int] = []

    coming: list[list[int]] = []

    async def follow(stream: AsyncIterator[News]) -> None:
        async for news in stream:
            heard.extend(number for number, digest in news.pieces if digest == DIGESTS[number])
            assert news.coming is not None
            coming.append(list(news.coming))

    async with opened(tmp_path) as store:
        task = await store.take(spec("a"))
        task.set_meta(META)
        await task.put_pieces([NewPiece(1, PIECES[1])])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, task.follow())
            task.note_coming(0b101)
            await trio.testing.wait_all_tasks_blocked()
            task.note_coming(0)
            await task.put_pieces([NewPiece(0, PIECES[0])])
            await task.put_pieces([NewPiece(0, PIECES[0]), NewPiece(2, PIECES[2])])
        assert sorted(heard) == [0, 1, 2]
        assert coming[0] == [0, 2]
        assert coming[-1] == []


async def test_a_length_known_at_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        task = await store.take(spec("a"))
        task.set_meta(TaskMeta(Layout(None, MIB)))
        assert await task.put_pieces([NewPiece(n, piece) for n, piece in enumerate(PIECES)]) == [None] * 3
        assert not task.complete
        task.set_meta(META)
        assert task.complete
        assert await task.read_piece(2) == PIECES[2]
        with pytest.raises(StateError):
            task.set_meta(TaskMeta(Layout(len(CONTENT) + 1, MIB)))


def test_records_round_trip() -> None:
    record = Record(spec("f"), META)
    record.have.add(1)
    record.digests[1] = DIGESTS[1]
    assert decode_record(encode_record(record)) == record
    assert decode_record(encode_record(Record(spec("f")))) == Record(spec("f"))


async def test_room_is_what_all_that_is_idle_leaves(tmp_path: Path) -> None:
    async with open_task_store(tmp_path, 4 * MIB) as store:
        tasks = [await store.take(spec(name)) for name in ("a", "b")]
        for task in tasks:
            task.set_meta(TaskMeta(Layout(MIB, MIB)))
            await task.put_pieces([NewPiece(0, bytes(MIB))])
        store.check_room(4 * MIB)
        with tasks[0].use():
            store.check_room(3 * MIB)
            with pytest.raises(StorageError, match=r"no room for \d+ bytes: \d+ are left of its quota"):
                store.check_room(3 * MIB + 1)
        store.set_quota(1 << 60)
        with pytest.raises(StorageError, match="are left on its disk"):
            store.check_room(1 << 59)
