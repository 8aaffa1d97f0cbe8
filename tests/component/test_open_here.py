"""open_image_here: what ``open_image`` opens, when nobody has to be asked for it, and else nothing."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cafs.core.settings import Settings
from cafs.errors import CafsError, NotFoundError
from cafs.fetch.open_here import ElsewhereError, open_image_here
from cafs.fetch.open_image import open_image
from cafs.oci.layout import LayoutRepository
from cafs.oci.registry.repository import RegistryRepository
from tests.support.converted import make_layer, push_converted
from tests.support.logs import ExpectedLogs
from tests.support.oci import push_image
from tests.support.registry import Registry

MADE = [make_layer(0), make_layer(1)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=0)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutRepository:
    layout = LayoutRepository(tmp_path / "layout")
    trio.run(push_converted, layout, MADE)
    return layout


def open_and_close(source: str, settings: Settings) -> list[str]:
    async def run() -> list[str]:
        async with await open_image(source, settings) as opened:
            return [layer.diff_id for layer in opened.layers]

    return trio.run(run)


def diff_ids_here(source: str, settings: Settings) -> list[str]:
    opened = open_image_here(source, settings)
    for layer in opened.layers:
        layer.index.close()
    return [layer.diff_id for layer in opened.layers]


def test_a_layout_whose_indexes_are_cached(layout: LayoutRepository, settings: Settings) -> None:
    source = f"oci:{layout.root}:v1"
    with pytest.raises(ElsewhereError, match="is not here"):
        open_image_here(source, settings)
    expected = open_and_close(source, settings)
    assert diff_ids_here(source, settings) == expected


def test_mistakes_are_errors_here_too(layout: LayoutRepository, settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="has no image 'v2'"):
        open_image_here(f"oci:{layout.root}:v2", settings)
    trio.run(push_image, layout, [b"x"], "plain")
    with pytest.raises(NotFoundError, match="not converted"):
        open_image_here(f"oci:{layout.root}:plain", settings)


def test_a_rotten_index_is_not_used(
    layout: LayoutRepository, settings: Settings, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("is damaged")
    source = f"oci:{layout.root}:v1"
    open_and_close(source, settings)
    path = next((settings.cache_dir / "index").iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ElsewhereError):
        open_image_here(source, settings)


@pytest.fixture
def registry_image(docker_registry: Registry, settings: Settings) -> tuple[str, str, Settings]:
    """(name by tag, name by digest, settings) of an image in a registry."""
    name = f"here/{uuid.uuid4().hex[:8]}"
    insecure = replace(settings, insecure_registries=(docker_registry.host,))

    async def push() -> str:
        repository = RegistryRepository(docker_registry.host, name, insecure)
        image, _ = await push_converted(repository, MADE)
        await repository.aclose()
        return image.digest

    digest = trio.run(push)
    return f"{docker_registry.host}/{name}:v1", f"{docker_registry.host}/{name}@{digest}", insecure


def test_a_registry_is_never_asked(registry_image: tuple[str, str, Settings]) -> None:
    tagged, pinned, settings = registry_image
    for source in (tagged, pinned):
        with pytest.raises(ElsewhereError, match="has to be asked"):
            open_image_here(source, settings)
    expected = open_and_close(pinned, settings)
    open_and_close(tagged, settings)
    assert diff_ids_here(pinned, settings) == expected
    with pytest.raises(CafsError, match="has to be asked"):  # a tag may have moved
        open_image_here(tagged, settings)
