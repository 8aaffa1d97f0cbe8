"""How often a start has to wait for a registry's answer before it can ask for the next thing."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.profile import Profile
from cafs.core.settings import Settings
from cafs.errors import NotFoundError, ProtocolError
from cafs.fetch.open_image import find_converted
from cafs.fetch.profile_artifact import attach_profile, find_profile
from cafs.fetch.profile_search import ProfileSearch
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.reference import RegistryReference
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.repository import Repository
from tests.support.converted import make_layer, push_converted
from tests.support.faults import FaultyRegistry, Stall, Status
from tests.support.grid import until
from tests.support.oci import attach_artifact, descriptor_of, push_image
from tests.support.patience import PATIENCE_S
from tests.support.scripted_server import ScriptedServer, serve_script

LISTS = r"/referrers/"
MADE = make_layer(0)
SUBJECT = Descriptor(f"sha256:{1:064x}", 5, OCI_MANIFEST)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "c", run_dir=tmp_path / "r", retries=0, stall_timeout_s=PATIENCE_S)


@pytest.fixture
async def there(settings: Settings, faulty_registry: FaultyRegistry) -> AsyncIterator[RegistryRepository]:
    repository = RegistryRepository(faulty_registry.host, f"trips/t{uuid.uuid4().hex}", settings)
    yield repository
    await repository.aclose()


def asked(registry: FaultyRegistry, path: str) -> int:
    return sum(path in request.path for request in registry.settled())


async def test_referrers_of_several_types_are_asked_for_once(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    image = await push_image(there, [b"x"], "v1")
    one = await attach_artifact(there, image, "kind/x", b"one")
    two = await attach_artifact(there, image, "kind/y", b"two")
    faulty_registry.forget()
    found: dict[str, list[str]] = {}

    async def look(kind: str) -> None:
        found[kind] = [entry.digest for entry in await there.referrers(image, kind)]

    async with trio.open_nursery() as nursery:
        for kind in ("kind/x", "kind/y", "kind/z"):
            nursery.start_soon(look, kind)
    assert found == {"kind/x": [one.digest], "kind/y": [two.digest], "kind/z": []}
    assert asked(faulty_registry, LISTS) == 1
    three = await attach_artifact(there, image, "kind/z", b"three")
    await look("kind/z")
    assert found["kind/z"] == [three.digest], "what was just attached here is seen"


async def test_an_image_without_referrers_is_looked_at_again(
    there: RegistryRepository, settings: Settings
) -> None:
    image = await push_image(there, [b"x"], "v1")
    assert await there.referrers(image, "kind/x") == []
    other = RegistryRepository(there.host, there.repository, settings)
    one = await attach_artifact(other, image, "kind/x", b"one")
    await other.aclose()
    assert [entry.digest for entry in await there.referrers(image, "kind/x")] == [one.digest]


async def test_who_leaves_takes_nobodys_answer_along(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    image = await push_image(there, [b"x"], "v1")
    one = await attach_artifact(there, image, "kind/x", b"one")
    faulty_registry.fail(Stall(headers=False), path=LISTS, times=1)
    faulty_registry.forget()
    found: list[str] = []
    leaving = trio.CancelScope()

    async def leave() -> None:
        with leaving:
            await there.referrers(image, "kind/x")

    async def stay() -> None:
        found.extend(entry.digest for entry in await there.referrers(image, "kind/x"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.to_thread.run_sync(faulty_registry.wait_until_asked, LISTS)
        nursery.start_soon(stay)
        await trio.testing.wait_all_tasks_blocked()
        leaving.cancel()
    assert found == [one.digest]


async def test_the_referrers_api_page_by_page(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    def page(number: int, link: str = "") -> Status:
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": f"sha256:{number:064x}",
            "size": 5,
            "artifactType": "kind/x",
        }
        other = {**entry, "digest": f"sha256:{number + 100:064x}", "artifactType": "kind/y"}
        body = json.dumps({"schemaVersion": 2, "manifests": [entry, other]}).encode()
        headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        return Status(200, {**headers, **({"Link": link} if link else {})}, body)

    path = f"/v2/{there.repository}/referrers/{SUBJECT.digest}"
    faulty_registry.fail(page(1, f'<{path}?last=1>; rel="next"'), path=r"/referrers/[^?]*$", times=1)
    faulty_registry.fail(page(2), path="last=1", times=1)
    found = await there.referrers(SUBJECT, "kind/x")
    assert [int(d.digest[7:], 16) for d in found] == [1, 2]
    faulty_registry.fail(page(1, f'<{path}?last=1>; rel="next"'), path="referrers")
    with pytest.raises(ProtocolError, match="does not end"):
        await there.referrers(Descriptor(f"sha256:{7:064x}", 5, OCI_MANIFEST), "kind/x")


async def test_of_several_profiles_only_the_newest_is_fetched(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    made = [make_layer(n) for n in range(2)]
    image, _ = await push_converted(there, made)
    layers = tuple(descriptor_of(layer.layer).digest for layer in made)
    newest = Profile(layers, ((0, b"newest!!"),))
    for year, profile in ((2024, Profile(layers, ((0, b"oldest!!"),))), (2026, newest)):
        await attach_profile(there, image, profile, datetime(year, 1, 1, tzinfo=UTC))
    faulty_registry.forget()
    assert await find_profile(there, image) == newest
    assert asked(faulty_registry, "/manifests/sha256:") == 1


async def test_the_profile_is_looked_for_beside_the_artifact(
    there: RegistryRepository, faulty_registry: FaultyRegistry, settings: Settings
) -> None:
    image, artifact = await push_converted(there, [MADE])
    layers = (descriptor_of(MADE.layer).digest,)
    profile = Profile(layers, ((0, b"anything"),))
    await attach_profile(there, image, profile, datetime(2026, 1, 1, tzinfo=UTC))
    faulty_registry.fail(Stall(headers=False), path=f"/manifests/{artifact.digest}")
    reference = RegistryReference(there.host, there.repository, tag="v1", digest=None)
    searches: list[ProfileSearch] = []
    async with trio.open_nursery() as nursery:

        def resolved(repository: Repository, descriptor: object) -> None:
            searches.append(ProfileSearch(nursery, repository, image))

        async def find() -> None:
            await find_converted(there, reference, settings, resolved=resolved)

        nursery.start_soon(find)
        await until(lambda: bool(searches))
        with trio.fail_after(PATIENCE_S):
            assert await searches[0].result() == profile, "while the artifact has not come"
        nursery.cancel_scope.cancel()


async def test_connections_for_the_next_questions_are_opened_early(settings: Settings) -> None:
    """The server answers once three more clients than the one that asks have come."""
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"

    async def answer_late(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while await server.read_request(stream):
            await until(lambda: server.connections == 4)
            await stream.send_all(answer)

    async with serve_script(answer_late) as server:
        repository = RegistryRepository(server.host, "trips/early", settings)
        with pytest.raises(NotFoundError):
            await repository.resolve("v1")
        assert server.connections == 4
        # They serve what is asked next.
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_expect_none, repository)
        assert server.connections == 4
        await repository.aclose()


async def _expect_none(repository: RegistryRepository) -> None:
    with pytest.raises(NotFoundError):
        await repository.fetch_named("v2")
