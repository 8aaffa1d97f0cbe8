"""Indexes are brought side by side, and no registry stands in another's way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from cafs.core.settings import Settings
from cafs.errors import CafsError
from cafs.fetch.known_images import KnownImage
from cafs.fetch.open_image import remember_converted
from cafs.node.mountd.images import FoundImage, Images, registry_reference
from cafs.node.mountd.state import ImageName
from cafs.oci.artifact import IndexArtifact
from cafs.oci.descriptor import AnyBlob
from cafs.oci.repositories import IDLE_S, Repositories
from cafs.oci.repository import Repository
from tests.support.converted import make_layer
from tests.support.oci import descriptor_of
from tests.support.patience import PATIENCE_S

MADE = [make_layer(number) for number in range(8)]


class OneBlob:
    """A repository that has one blob; or, without, sends nothing for ever."""

    def __init__(self, content: bytes | None = None) -> None:
        self.name = "a repository"
        self._content = content
        self.asked = 0

    @asynccontextmanager
    async def blob(self, _blob: AnyBlob) -> AsyncGenerator[AsyncIterator[bytes]]:
        self.asked += 1
        yield self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._content is None:
            await trio.sleep_forever()
        yield self._content or b""


def found(host: str, repository: OneBlob) -> FoundImage:
    name = ImageName(f"{host}/app:v1", descriptor_of(host.encode()).digest)
    return FoundImage(name, cast("Repository", repository), cast("KnownImage", None))


def images(tmp_path: Path, nursery: trio.Nursery) -> Images:
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run")
    return Images(settings, cast("Repositories", None), nursery, profiles=False)


async def open_one(known: Images, image: FoundImage, number: int) -> None:
    (await known.open_index(image, MADE[number].artifact_layer())).close()


async def test_a_registry_that_sends_nothing_keeps_no_other_from_bringing(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        known, slow = images(tmp_path, nursery), OneBlob()
        for number in range(7):
            nursery.start_soon(open_one, known, found("slow.test", slow), number)
        with trio.fail_after(PATIENCE_S):
            while slow.asked < 6:
                await trio.testing.wait_all_tasks_blocked()
            await open_one(known, found("quick.test", OneBlob(MADE[7].packed)), 7)
        nursery.cancel_scope.cancel()


async def test_the_same_index_comes_from_the_registry_that_sends_it(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        known, slow = images(tmp_path, nursery), OneBlob()
        nursery.start_soon(open_one, known, found("slow.test", slow), 0)
        with trio.fail_after(PATIENCE_S):
            while not slow.asked:
                await trio.testing.wait_all_tasks_blocked()
            await open_one(known, found("quick.test", OneBlob(MADE[0].packed)), 0)
        nursery.cancel_scope.cancel()


async def test_a_registry_that_sends_nothing_is_given_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Who asked has gone long before; the next one is not to join what hangs."""
    autojump_clock.autojump_threshold = 0.2
    async with trio.open_nursery() as nursery:
        known, slow = images(tmp_path, nursery), OneBlob()
        image = found("slow.test", slow)
        with pytest.raises(CafsError, match="did not come"):
            await open_one(known, image, 0)
        await trio.sleep(3600)
        with pytest.raises(CafsError, match="did not come"):
            await open_one(known, image, 0)
        assert slow.asked == 2
        nursery.cancel_scope.cancel()


async def test_an_image_is_not_asked_for_on_a_way_that_was_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.2
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run")
    repositories = Repositories(settings, lambda _host, _repository: ())
    name = ImageName("registry.test/app:v1", descriptor_of(b"an image").digest)
    reference = registry_reference(name)
    image = KnownImage(descriptor_of(b"an image"), IndexArtifact(None, ()))
    await remember_converted(repositories.get(reference), reference, settings, image)
    async with trio.open_nursery() as nursery:
        known = Images(settings, repositories, nursery, profiles=False)
        before = (await known.find(name)).repository
        assert (await known.find(name)).repository is before
        await trio.sleep(IDLE_S + 1)
        await repositories.close_idle(())
        after = (await known.find(name)).repository
        assert after is repositories.get(reference)
        assert after is not before
        nursery.cancel_scope.cancel()
    await repositories.aclose()
