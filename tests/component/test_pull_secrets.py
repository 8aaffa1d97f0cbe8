"""Pull secrets that came with an image, against real registries: their order, and expiry in mid-life."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cafs.core.settings import Settings
from cafs.errors import AuthError
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference
from cafs.oci.registry.challenge import Credentials
from cafs.oci.registry.pull_secrets import PullSecret, PullSecrets
from cafs.oci.registry.repository import RegistryRepository
from tests.support.faults import ExpireToken, FaultyRegistry, Status
from tests.support.oci import log_in, push_bytes
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.tokens import TokenServer

SETTINGS = Settings(
    cache_dir=Path("unused"), run_dir=Path("unused"), retries=0, stall_timeout_s=1.0, read_deadline_s=3.0
)
RIGHT, WRONG = Credentials(USER, PASSWORD), Credentials(USER, "not the password")
CONTENT = os.urandom(1000)


@dataclass
class Node:
    """What a mount server has: secrets that were brought, and repositories that ask them."""

    secrets: PullSecrets
    opened: list[RegistryRepository]

    def open(self, host: str, name: str) -> RegistryRepository:
        found = open_repository(parse_reference(f"{host}/{name}"), SETTINGS, self.secrets.sources)
        assert isinstance(found, RegistryRepository)
        self.opened.append(found)
        return found

    def bring(self, repository: RegistryRepository, credentials: Credentials) -> None:
        self.secrets.remember(PullSecret(repository.host, repository.repository, credentials))


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """One where nobody has logged in."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    node = Node(PullSecrets(), [])
    yield node
    for repository in node.opened:
        await repository.aclose()


@pytest.fixture(params=["basic_registry", "token_registry"])
def front(
    request: pytest.FixtureRequest, faulty_in_front: Callable[[Registry], FaultyRegistry]
) -> FaultyRegistry:
    """A registry that wants credentials, behind a proxy that makes them expire."""
    return faulty_in_front(request.getfixturevalue(request.param))


def name() -> str:
    return f"secrets/t{uuid.uuid4().hex}"


async def test_a_secret_opens_its_own_repository_only(front: FaultyRegistry, node: Node) -> None:
    repository, other = node.open(front.host, name()), node.open(front.host, name())
    node.bring(repository, RIGHT)
    blob = await push_bytes(repository, CONTENT)
    assert await repository.read_range(blob, 0, 10) == CONTENT[:10]
    with pytest.raises(AuthError):
        await other.read_range(blob, 0, 10)


async def test_a_wrong_one_gives_way_to_dockers_configuration(
    front: FaultyRegistry, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = node.open(front.host, name())
    node.bring(repository, WRONG)
    with pytest.raises(AuthError) as caught:
        await push_bytes(repository, CONTENT)
    assert "not the password" not in str(caught.value)
    log_in(tmp_path, monkeypatch, front.host)
    assert (await push_bytes(repository, CONTENT)).size == len(CONTENT)


async def test_a_token_that_expires_in_the_middle_is_got_anew_with_whatever_serves(
    faulty_in_front: Callable[[Registry], FaultyRegistry],
    token_registry: Registry,
    token_server: TokenServer,
    node: Node,
) -> None:
    """Kubernetes brings another secret with a later pull; the repository that is open asks it at once."""
    front = faulty_in_front(token_registry)
    repository = node.open(front.host, name())
    node.bring(repository, RIGHT)
    blob = await push_bytes(repository, CONTENT)
    assert await repository.read_range(blob, 0, 10) == CONTENT[:10]
    node.bring(repository, WRONG)  # the newest, so it is tried first
    refused, issued = token_server.refused, len(token_server.issued)
    front.fail(ExpireToken(), path="/blobs/", times=1)
    assert await repository.read_range(blob, 10, 10) == CONTENT[10:20]
    assert (token_server.refused, len(token_server.issued)) == (refused + 1, issued + 1)


async def test_what_is_forbidden_to_all_stays_forbidden(front: FaultyRegistry, node: Node) -> None:
    repository = node.open(front.host, name())
    node.bring(repository, RIGHT)
    blob = await push_bytes(repository, CONTENT)
    await repository.read_range(blob, 0, 10)
    front.forget()
    front.fail(Status(403), path="/blobs/")
    with pytest.raises(AuthError, match="403"):
        await repository.read_range(blob, 0, 10)
    assert len(front.settled()) == 1
    front.heal()
    assert await repository.read_range(blob, 0, 10) == CONTENT[:10]
