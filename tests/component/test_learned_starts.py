"""Starts that are watched and told, and what was learned of others: from mount server to peer, and kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from cafs.core.digest import Digest
from cafs.core.learning import MAX_BYTES, MAX_CHUNKS, PROFILES_PATH, encode_bounded
from cafs.core.profile import Profile
from cafs.errors import NotFoundError, UnavailableError
from cafs.fetch.learned_profiles import LearnedProfiles, ask_learned
from cafs.fetch.limits import FetchLimits
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.node.mountd import prefetching
from cafs.node.mountd.images import FoundImage
from cafs.node.mountd.starts import PAUSE_S, START_S, Starts
from cafs.node.mountd.state import ImageName
from cafs.p2p import profile_relay
from cafs.p2p.node_server import NodeParts, NodeServer
from cafs.p2p.profile_relay import ProfileRelay
from cafs.proto import manager_pb2
from tests.support.fetching import MemoryLayer, MemoryStore, MemoryTable, ScriptedSource
from tests.support.grid import until
from tests.support.http import Answered, ask
from tests.support.node_sockets import listening
from tests.support.patience import PATIENCE_S

IMAGE = Digest("sha256:" + "7" * 64)
RAW = bytes.fromhex("77" * 32)
LAYER = Digest("sha256:" + "1" * 64)
PROFILE = Profile((LAYER,), ((0, b"chunk--1"), (0, b"chunk--2")), starts=4)
OTHER = Profile((LAYER,), ((0, b"chunk--3"),), starts=5)


class Manager:
    """Stands for the stream to the manager: answers wishes at once, with what the test says."""

    def __init__(self, relay: ProfileRelay) -> None:
        self._relay = relay
        self.is_up = True
        self.answers = True
        self.learned = b""
        self.said: list[Any] = []

    def say(self, message: Any) -> None:
        self.said.append(message)
        if message.WhichOneof("message") == "profile_wish" and self.answers:
            wish = message.profile_wish
            told = manager_pb2.LearnedProfile(image=wish.image, held=wish.held, profile=self.learned)
            if self.learned and wish.held == sha256(self.learned).digest():
                told.profile, told.unchanged = b"", True
            trio.lowlevel.current_trio_token().run_sync_soon(self._relay.hear_learned, told)

    def heard(self, kind: str) -> list[Any]:
        return [getattr(message, kind) for message in self.said if message.WhichOneof("message") == kind]


class Node:
    """A mount server's side and a peer's, with the node socket between them."""

    def __init__(self, path: Path, relay: ProfileRelay) -> None:
        self.socket = path / "s"
        self.folder = path / "kept"
        self.relay = relay
        self.manager = Manager(relay)
        relay.link = cast("Any", self.manager)
        self.peer = LocalPeer(self.socket, None)
        self.learned = LearnedProfiles(self.peer, self.folder)
        self.gone = trio.CancelScope()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answered:
        return await ask(self.socket, method, path, body)


@asynccontextmanager
async def node(path: Path, *, has_manager: bool = True, is_on: bool = True) -> AsyncIterator[Node]:
    made = Node(path, ProfileRelay(has_manager=has_manager, is_on=is_on))
    parts = cast("NodeParts", SimpleNamespace(profiles=made.relay))  # nothing else is asked for
    async with listening(made.socket, NodeServer(parts).handle) as made.gone:
        yield made
        made.peer.close()


async def test_what_was_learned_is_kept_for_when_nobody_can_be_asked(short_tmp_path: Path) -> None:
    async with node(short_tmp_path) as here:
        assert await here.learned.find(IMAGE) is None
        here.manager.learned = encode_bounded(PROFILE)
        assert await here.learned.find(IMAGE) == PROFILE
        assert await here.learned.find(IMAGE) == PROFILE  # unchanged
        assert [wish.held for wish in here.manager.heard("profile_wish")] == [
            b"", b"", sha256(here.manager.learned).digest()
        ]  # fmt: skip
        here.manager.is_up = False
        assert await here.learned.find(IMAGE) == PROFILE
        here.manager.is_up, here.manager.learned = True, encode_bounded(OTHER)
        assert await here.learned.find(IMAGE) == OTHER
        here.gone.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert await here.learned.find(IMAGE) == OTHER
        (kept,) = here.folder.iterdir()
        kept.write_bytes(b"damaged")
        assert await here.learned.find(IMAGE) is None
        assert list(here.folder.iterdir()) == []


@pytest.mark.parametrize("why", ["reset", "the cluster", "the node", "no manager"])
async def test_what_is_forgotten_or_switched_off_is_not_kept(short_tmp_path: Path, why: str) -> None:
    async with node(short_tmp_path, has_manager=why != "no manager", is_on=why != "the node") as here:
        here.folder.mkdir()
        (here.folder / f"{'7' * 64}.profile").write_bytes(encode_bounded(PROFILE))
        here.relay.learns = why != "the cluster"
        assert await here.learned.find(IMAGE) is None
        assert list(here.folder.iterdir()) == []
        assert here.relay.figures.nothing == 1
        await here.learned.report(IMAGE, "app", PROFILE, 5)
        assert len(here.manager.said) == (2 if why == "reset" else 0)


async def test_a_manager_that_does_not_answer_is_waited_for_no_longer(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_relay, "PATIENCE_S", 0.05)
    async with node(short_tmp_path) as here:
        here.manager.answers = False
        with pytest.raises(UnavailableError, match="does not say"):
            await ask_learned(here.peer, IMAGE)
        here.manager.is_up = False
        with pytest.raises(UnavailableError, match="away"):
            await ask_learned(here.peer, IMAGE)
        here.manager.is_up = here.manager.answers = True
        monkeypatch.setattr(profile_relay, "PATIENCE_S", PATIENCE_S)
        with pytest.raises(NotFoundError, match="nothing is learned"):
            await ask_learned(here.peer, IMAGE)
        here.gone.cancel()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnavailableError, match="cafs peer"):
            await ask_learned(here.peer, IMAGE)


async def test_who_gives_up_takes_the_answer_from_nobody_else(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager is asked once, and answers after the first of two has left."""
    monkeypatch.setattr(profile_relay, "PATIENCE_S", PATIENCE_S)
    async with node(short_tmp_path) as here:
        here.manager.answers = False
        found: list[Profile | None] = []

        async def ask_on() -> None:
            found.append(await here.relay.find(IMAGE))

        async with trio.open_nursery() as nursery:
            leaves = trio.CancelScope()

            async def ask_and_leave() -> None:
                with leaves:
                    await here.relay.find(IMAGE)

            nursery.start_soon(ask_and_leave)
            nursery.start_soon(ask_on)
            await trio.testing.wait_all_tasks_blocked()
            leaves.cancel()
            await trio.testing.wait_all_tasks_blocked()
            [wish] = here.manager.heard("profile_wish")
            here.relay.hear_learned(
                manager_pb2.LearnedProfile(image=wish.image, held=wish.held, profile=encode_bounded(PROFILE))
            )
        assert found == [PROFILE]


async def test_a_profile_that_is_too_large_is_none(short_tmp_path: Path) -> None:
    async with node(short_tmp_path) as here:
        here.manager.learned = bytes(MAX_BYTES + 1)
        with pytest.raises(NotFoundError, match="nothing is learned"):
            await ask_learned(here.peer, IMAGE)


async def test_a_start_is_told_when_the_manager_wants_it(short_tmp_path: Path) -> None:
    async with node(short_tmp_path) as here:
        await here.learned.report(IMAGE, "registry/app:v1\x1b", PROFILE, 1234)
        assert [offer.image for offer in here.manager.heard("start_offer")] == [RAW]
        here.relay.learns = False
        here.relay.hear_wanted(manager_pb2.StartWanted(image=RAW))
        here.relay.learns = True
        await here.learned.report(IMAGE, "registry/app:v1\x1b", PROFILE, 1234)
        assert not here.manager.heard("start_report")
        here.relay.hear_wanted(manager_pb2.StartWanted(image=b"x" * 32))
        for _ in range(2):  # once is enough
            here.relay.hear_wanted(manager_pb2.StartWanted(image=RAW))
        (told,) = here.manager.heard("start_report")
        assert (told.image, told.name, told.frame_bytes) == (RAW, "registry/app:v1", 1234)
        assert told.profile == encode_bounded(PROFILE)
        for number in range(40):
            await here.learned.report(Digest(f"sha256:{number:064x}"), "many", PROFILE, 1)
        for number in range(40):
            here.relay.hear_wanted(manager_pb2.StartWanted(image=number.to_bytes(32, "big")))
        assert len(here.manager.heard("start_report")) == 1 + 16


@pytest.mark.parametrize(
    ("method", "image", "body"),
    [
        ("GET", "latest", b""),
        ("GET", "sha512:" + "7" * 128, b""),
        ("GET", IMAGE + "/..", b""),
        ("POST", "latest", encode_bounded(PROFILE)),
        ("POST", IMAGE, b""),
        ("POST", IMAGE, b"[]"),
        ("POST", IMAGE, encode_bounded(Profile((LAYER,), ())) + b" " * (256 << 10)),
    ],
)
async def test_nonsense_is_refused(short_tmp_path: Path, method: str, image: str, body: bytes) -> None:
    async with node(short_tmp_path) as here:
        answer = await here.ask(method, PROFILES_PATH + image, body)
        assert answer.status in {400, 413}
        assert not here.manager.said


class Told(LearnedProfiles):
    """What is told is written down."""

    def __init__(self) -> None:
        self.starts: list[tuple[Digest, str, Profile]] = []

    async def report(self, image: Digest, name: str, start: Profile, frame_bytes: int) -> None:
        await trio.lowlevel.checkpoint()
        assert frame_bytes > 0
        self.starts.append((image, name, start))


def found(name: str, *layers: MemoryLayer) -> FoundImage:
    """An image of these layers."""
    parts = tuple(SimpleNamespace(diff_id=layer.diff_id, index_digest=layer.diff_id) for layer in layers)
    known = SimpleNamespace(artifact=SimpleNamespace(layers=parts), image=None)
    manifest = Digest("sha256:" + sha256(name.encode()).hexdigest())
    return FoundImage(ImageName(name, manifest), cast("Any", None), cast("Any", known))


@pytest.fixture(scope="module")
def layers() -> list[MemoryLayer]:
    return [MemoryLayer([1000] * 40, seed) for seed in range(3)]


@dataclass(eq=False)
class Shown:
    """What is asked of a ``LayerReader``."""

    name: str
    table: MemoryTable


class Watched:
    """Images that are shown and read, as far as that is watched."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.told = Told()
        self.starts = Starts(self.told, nursery)

    def show(self, image: FoundImage, layer: MemoryLayer) -> LayerReader:
        reader = cast("LayerReader", Shown(layer.diff_id, layer.table))
        self.starts.note_shown(image, reader)
        return reader

    def read(self, reader: LayerReader, *rows: int) -> None:
        """For the first time, each."""
        for row in rows:
            self.starts.note_read(reader, reader.table.row(row))


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    async with trio.open_nursery() as nursery:
        yield Watched(nursery)
        nursery.cancel_scope.cancel()


def names(layer: MemoryLayer, *rows: int) -> list[bytes]:
    return [layer.table.row(row).digest[:8] for row in rows]


async def test_a_start_ends_when_nothing_new_is_read(
    layers: list[MemoryLayer], autojump_clock: trio.testing.MockClock
) -> None:
    async with watched() as here:
        lower, upper = (here.show(found("app", *layers[:2]), layer) for layer in layers[:2])
        await trio.sleep(100)  # nobody starts it yet
        here.read(lower, 7, 3)
        await trio.sleep(PAUSE_S - 0.1)
        here.read(upper, 5)
        here.read(lower, 4)
        await trio.sleep(PAUSE_S - 0.1)
        assert here.told.starts == []
        await trio.sleep(0.2)
        ((image, name, start),) = here.told.starts
        assert (image, name) == (found("app").name.manifest, "app")
        assert start.layers == (layers[0].diff_id, layers[1].diff_id)
        expected = [(0, chunk) for chunk in names(layers[0], 7, 3)]
        expected += [(1, names(layers[1], 5)[0]), (0, names(layers[0], 4)[0])]
        assert list(start.chunks) == expected
        here.read(lower, 9)  # another container of it, perhaps
        await trio.sleep(100)
        assert len(here.told.starts) == 1


async def test_a_start_that_does_not_end_is_cut(
    layers: list[MemoryLayer], autojump_clock: trio.testing.MockClock
) -> None:
    async with watched() as here:
        reader = here.show(found("app", layers[0]), layers[0])
        for row in range(40):
            here.read(reader, row)
            await trio.sleep(1)
        ((_, _, start),) = here.told.starts
        assert [prefix for _, prefix in start.chunks] == names(layers[0], *range(len(start.chunks)))
        assert START_S <= len(start.chunks) <= START_S + 1


async def test_a_layer_is_watched_for_the_image_that_it_was_first_shown_for(
    layers: list[MemoryLayer], autojump_clock: trio.testing.MockClock
) -> None:
    """And a start ends when a layer of it is taken away."""
    async with watched() as here:
        base = here.show(found("one", layers[0], layers[1]), layers[0])
        one = here.show(found("one", layers[0], layers[1]), layers[1])
        two = here.show(found("two", layers[0], layers[2]), layers[2])
        here.read(base, 1)
        here.read(two, 2)
        here.read(one, 3)
        here.starts.note_removed(one)
        here.starts.note_removed(two)
        await trio.sleep(0.1)
        told = {name: start for _, name, start in here.told.starts}
        assert told["two"].layers == (layers[2].diff_id,)
        assert [prefix for _, prefix in told["two"].chunks] == names(layers[2], 2)
        assert [prefix for _, prefix in told["one"].chunks] == [*names(layers[0], 1), *names(layers[1], 3)]


async def test_of_a_start_that_reads_much_the_beginning_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    large = MemoryLayer([16] * (MAX_CHUNKS + 10))
    async with watched() as here:
        reader = here.show(found("app", large), large)
        here.read(reader, *range(len(large.table)))
        await trio.sleep(PAUSE_S + 1)
        ((_, _, start),) = here.told.starts
        assert [prefix for _, prefix in start.chunks] == names(large, *range(MAX_CHUNKS))


@pytest.mark.parametrize("is_late", [False, True])
async def test_what_was_learned_is_fetched_also_if_it_is_told_late(
    layers: list[MemoryLayer], monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    monkeypatch.setattr(prefetching, "MOUNT_PATIENCE_S", 0.0 if is_late else 60.0)
    layer, rows = layers[0], [5, 30, 2]
    learned = Profile((Digest(layer.diff_id),), tuple((0, name) for name in names(layer, *rows)), starts=3)
    told = trio.Event()

    async def find_none(_: FoundImage) -> None:
        await trio.lowlevel.checkpoint()

    async def find_learned(_: FoundImage) -> Profile:
        await told.wait()
        return learned

    store = MemoryStore()
    async with ChunkService(store, FetchLimits()) as service, trio.open_nursery() as nursery:
        began = prefetching.Prefetching(service, find_none, Prefetch.PROFILE, nursery, find_learned)
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        began.note_added(found("app", layer), cast("Any", "index"), reader)
        await trio.testing.wait_all_tasks_blocked(0.05)
        told.set()
        digests = [ref.digest for ref in layer.table.refs]
        await until(lambda: sum(store.has(digests)) == len(rows))
        began.note_removed(reader)
    assert store.has(digests) == [row in rows for row in range(len(layer.table))]
