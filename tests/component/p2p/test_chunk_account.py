"""Chunks of lazily mounted images: whose blobs are blocked, and what of them is counted for which task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cafs.core.live.document import parse_document
from cafs.core.settings import Settings
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.swarm.ids import HostId, task_id
from cafs.errors import StateError
from cafs.oci.repositories import Repositories
from cafs.p2p.chunk_account import ChunkAccount
from cafs.p2p.means import Means
from cafs.p2p.membership import ChunkMember
from tests.support.chunk_swarm import swarm, wish_for
from tests.support.fetching import MemoryLayer, ScriptedSource
from tests.support.grid import grid

REGISTRY = "registry.example:5000"


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    return MemoryLayer([64 << 10] * 8)


@pytest.fixture
async def means(tmp_path: Path) -> AsyncIterator[Means]:
    async with grid(tmp_path) as made:
        yield (await made.host()).means


def account_of(means: Means) -> ChunkAccount:
    settings = Settings(cache_dir=Path("/c"), run_dir=Path("/r"), insecure_registries=(REGISTRY,))
    return ChunkAccount(means, Repositories(settings, lambda _host, _repository: ()))


def wish(layer: MemoryLayer, repository: str) -> ChunkWish:
    return ChunkWish(layer.blobs[0], f"{REGISTRY}/{repository}", tuple(layer.table.refs), may_fetch=True)


@pytest.mark.parametrize(
    "line",
    [
        {"url": f"^http://{REGISTRY}/v2/team/app/blobs/sha256:"},
        {"url": "/v2/team/", "tag": "chunks"},
        {"url": "/team/app/", "priority": 3},
    ],
)
async def test_lines_that_fit_the_blobs_address_block(
    means: Means, layer: MemoryLayer, line: dict[str, object]
) -> None:
    account = account_of(means)
    account.check(wish(layer, "team/app"))
    means.policy.rules = parse_document({"block": [line]}, "scheduler").wishes
    with pytest.raises(StateError, match="blocked by the cluster's configuration: "):
        account.check(wish(layer, "team/app"))
    account.check(wish(layer, "other/app"))


@pytest.mark.parametrize("line", [{"application": "batch"}, {"tag": "x"}, {"url": "/app", "priority": 5}])
async def test_lines_about_other_downloads_do_not(
    means: Means, layer: MemoryLayer, line: dict[str, object]
) -> None:
    means.policy.rules = parse_document({"block": [line]}, "scheduler").wishes
    account_of(means).check(wish(layer, "team/app"))


async def test_bytes_are_counted_for_the_task_that_schedulers_know(means: Means, layer: MemoryLayer) -> None:
    account, blob = account_of(means), layer.blobs[0]
    account.note(blob, 1000, None)
    account.note(blob, 200, ChunkMember(HostId("1" * 32), "10.0.0.1:1"))
    task = task_id("", tag="chunks", digest=blob.digest)
    tasks, applications = means.shares.take()
    assert ({name: dict(amounts) for name, amounts in tasks.items()}, applications) == (
        {task: {"origin_bytes": 1000, "peer_bytes": 200}},
        {},
    )
    assert means.traffic.to_json()[task] == {
        "source_bytes": 1000,
        "peer_bytes": 200,
        "parents": {"10.0.0.1:1": 200},
    }


async def test_each_byte_that_comes_is_noted_with_its_blob_and_sender(
    tmp_path: Path, layer: MemoryLayer
) -> None:
    async with swarm(tmp_path, ScriptedSource(layer.blob), 2) as ([first, second], _):
        for host in (first, second):
            assert all(await host.exchange.bring(wish_for(layer)))
        size = len(layer.blob)
        for host, other in ((first, second), (second, first)):
            figures = host.exchange.figures
            noted = {
                (layer.blobs[0], ""): figures.source_bytes,
                (layer.blobs[0], other.membership.address): figures.peer_bytes,
            }
            assert host.account.noted == {key: count for key, count in noted.items() if count}
        assert first.exchange.figures.source_bytes + second.exchange.figures.source_bytes == size


async def test_a_blocked_host_has_no_part_in_the_swarm_and_gives_what_it_has(
    tmp_path: Path, layer: MemoryLayer
) -> None:
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 1) as ([host], table):
        here, missing = layer.table.refs[:4], layer.table.refs[4:]
        assert all(await host.exchange.bring(wish_for(layer, here)))
        assert host.id in table.members
        asked = len(source.requests)
        host.account.blocked = True
        assert [frame is not None for frame in await host.exchange.serve(wish_for(layer))] == [True] * 4 + [
            False
        ] * len(missing)
        assert host.id not in table.members
        for act in (host.exchange.bring, host.exchange.fill):
            with pytest.raises(StateError, match="blocked by the test"):
                await act(wish_for(layer, here))
        assert len(source.requests) == asked
        host.account.blocked = False
        assert all(await host.exchange.bring(wish_for(layer)))
        assert host.id in table.members
