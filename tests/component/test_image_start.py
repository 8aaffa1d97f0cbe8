"""Prefetching that begins while an image is being opened, and the process that checks indexes meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing
import zstandard

from cafs.core.chunk import chunk_digest
from cafs.core.profile import PREFIX_BYTES, Profile
from cafs.core.settings import Settings
from cafs.errors import IntegrityError
from cafs.fetch.check_process import CheckProcess
from cafs.fetch.image_start import ImageStart
from cafs.fetch.limits import FetchLimits
from cafs.fetch.open_image import open_image
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.profile_artifact import attach_profile
from cafs.fetch.service import ChunkService
from cafs.index.layer_index import LayerIndex
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.layout import LayoutRepository
from cafs.oci.registry.repository import RegistryRepository
from tests.support.converted import make_layer, push_converted
from tests.support.faults import FaultyRegistry
from tests.support.oci import descriptor_of
from tests.support.patience import PATIENCE_S

MADE = [make_layer(0), make_layer(1)]
SPOILT = bytearray(MADE[0].index_file)
SPOILT[4096 + 1024 + 14] ^= 0xFF  # the superblock's root inode


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=0, stall_timeout_s=5.0)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A sound index and one that is not."""
    sound, spoilt = tmp_path / "sound", tmp_path / "spoilt"
    sound.write_bytes(MADE[0].index_file)
    spoilt.write_bytes(bytes(SPOILT))
    return sound, spoilt


async def test_a_profile_is_followed_before_the_indexes_are_checked(
    settings: Settings, faulty_registry: FaultyRegistry, expected_chunks: list[bytes]
) -> None:
    """The checks wait in this test until every chunk of the profile is here."""
    repository = RegistryRepository(faulty_registry.host, "start/image", settings)
    image, _ = await push_converted(repository, MADE)
    layers = tuple(descriptor_of(made.layer).digest for made in MADE)
    chunks = tuple((n, digest[:PREFIX_BYTES]) for n, digest in enumerate(expected_chunks))
    await attach_profile(repository, image, Profile(layers, chunks), datetime(2026, 1, 1, tzinfo=UTC))
    await repository.aclose()
    faulty_registry.forget()
    async with ChunkService(None, FetchLimits()) as service, trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        theirs.close()
        checker = _WaitingChecker(ours, service, expected_chunks)
        start = ImageStart(service, Prefetch.PROFILE, nursery, checker)
        with trio.fail_after(PATIENCE_S):
            opened = await open_image(
                f"docker://{faulty_registry.host}/start/image:v1", settings, None, start
            )
        async with opened:
            readers = start.readers
            checker.dismiss()
            assert readers is not None
            assert [reader.name for reader in readers] == list(layers)
            requests = service.stats().requests
            for reader, made in zip(readers, MADE, strict=True):
                begin = reader.virtual_bytes - len(made.content)
                assert b"".join(await reader.read(begin, len(made.content))) == made.content
            assert service.stats().requests == requests, "all of it was here before the mount was"
        nursery.cancel_scope.cancel()


@pytest.fixture
def expected_chunks() -> list[bytes]:
    return [chunk_digest(made.content) for made in MADE]


class _WaitingChecker(CheckProcess):
    """Says that an index is sound once the service has these chunks."""

    def __init__(self, channel: socket.socket, service: ChunkService, digests: list[bytes]) -> None:
        super().__init__(channel)
        self._service, self._digests = service, digests

    async def check(self, descriptor: int) -> bool:
        while any(self._service.cached(digest) is None for digest in self._digests):
            await trio.testing.wait_all_tasks_blocked()
        return True


@pytest.mark.parametrize("answers", [True, False])
async def test_an_index_that_is_not_sound_ends_the_opening(
    tmp_path: Path, settings: Settings, checker: CheckProcess, answers: bool
) -> None:
    """Whoever checks it: the process, or a thread where there is none."""
    if not answers:
        checker.dismiss()
    layout = LayoutRepository(tmp_path / "layout")
    spoilt = replace(MADE[0], index_file=bytes(SPOILT), packed=zstandard.compress(bytes(SPOILT)))
    await push_converted(layout, [spoilt])
    async with ChunkService(None, FetchLimits()) as service, trio.open_nursery() as nursery:
        start = ImageStart(service, Prefetch.NONE, nursery, checker)
        with pytest.raises(IntegrityError, match="layer index"):
            await open_image(f"oci:{layout.root}", settings, None, start)
        nursery.cancel_scope.cancel()
    assert list((settings.cache_dir / "index").iterdir()) == []


async def test_readers_are_there_only_when_all_layers_are(settings: Settings, tmp_path: Path) -> None:
    layout = LayoutRepository(tmp_path / "layout")
    await push_converted(layout, MADE)
    async with ChunkService(None, FetchLimits()) as service, trio.open_nursery() as nursery:
        start = ImageStart(service, Prefetch.NONE, nursery)
        assert start.readers is None
        seen: list[object] = []

        def note(layer: ArtifactLayer, index: LayerIndex, was_fetched: bool) -> None:
            ImageStart.opened(start, layer, index, was_fetched)
            seen.append(start.readers)

        start.opened = note  # type: ignore[method-assign]  # listens in
        async with await open_image(f"oci:{layout.root}", settings, None, start):
            assert seen[0] is None
            assert seen[1] is not None
        async with await open_image(f"oci:{layout.root}", settings, None, start):
            assert len(seen) == 4, "an index from the cache is told of too"
            assert start.readers == seen[1]
        assert start.is_cold
        nursery.cancel_scope.cancel()


@pytest.fixture
async def checker() -> AsyncIterator[CheckProcess]:
    """A real one, forked as a mount forks it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # Not of this process, which has threads: a mount's first server has none.
        program = (
            "import socket; from cafs.node.check_fork import fork_checker;"
            "fork_checker(socket.socket(fileno={}))"
        )
        number = theirs.fileno()
        await trio.run_process([sys.executable, "-c", program.format(number)], pass_fds=[number])
    made = CheckProcess(ours)
    yield made
    made.dismiss()


async def test_the_process_tells_sound_from_unsound(
    checker: CheckProcess, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    with (
        files[0].open("rb") as sound,
        files[1].open("rb") as spoilt,
        (tmp_path / "empty").open("rb") as empty,
    ):
        with trio.fail_after(PATIENCE_S):
            assert await checker.check(sound.fileno())
            with pytest.raises(IntegrityError, match="inode"):
                await checker.check(spoilt.fileno())
            with pytest.raises(IntegrityError):
                await checker.check(empty.fileno())
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(checker.check, sound.fileno())
            checker.dismiss()
            assert not await checker.check(sound.fileno()), "it has ended"


async def test_a_process_that_says_nothing(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cafs.fetch.check_process.ANSWER_S", 0.1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent = CheckProcess(ours)
    with theirs, files[0].open("rb") as sound:
        assert not await silent.check(sound.fileno())
        assert not await silent.check(sound.fileno()), "a late answer is not taken for this one's"


def test_the_forked_process_holds_nothing_else(tmp_path: Path) -> None:
    """Above all not the FUSE device: a pipe that it inherited would stay open."""
    program = (
        "import os, socket; from cafs.node.check_fork import fork_checker;"
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "r, w = os.pipe(); fork_checker(b); os.close(w); print(os.read(r, 1))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=True)
    assert done.stdout == b"b''\n"
