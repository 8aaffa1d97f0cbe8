"""Copying an image as it is: what it tells meanwhile."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from cafs.convert.copy_image import Copier
from cafs.core.progress import Step
from cafs.core.settings import Settings
from cafs.errors import NotFoundError
from cafs.oci.image import Manifest, load_manifest
from cafs.oci.layout import LayoutRepository
from cafs.oci.registry.repository import RegistryRepository
from tests.support.oci import push_image
from tests.support.registry import Registry
from tests.support.tars import make_tar, member


class Told:
    """One step, as it was told."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.note: str | None = None

    def advance(self, amount: int) -> None:
        self.done.append(amount)

    def finish(self, note: str = "") -> None:
        self.note = note


class Recorder:
    """Progress as a list of steps."""

    def __init__(self) -> None:
        self.steps: list[Told] = []

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Step:
        del name, total, unit
        self.steps.append(Told())
        return self.steps[-1]


async def image_of(layout: LayoutRepository, layer: bytes) -> Manifest:
    found = await load_manifest(layout, await push_image(layout, [layer], "v1"))
    assert isinstance(found, Manifest)
    return found


async def test_a_layer_is_told_of_piece_by_piece_or_at_once(
    docker_registry: Registry, tmp_path: Path
) -> None:
    """Whoever waits for gigabytes is to see them come; what is there need not be waited for."""
    source = LayoutRepository(tmp_path / "a")
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run")
    target = RegistryRepository(docker_registry.host, f"copied/t{uuid.uuid4().hex}", settings)
    manifest = await image_of(source, make_tar(member("f", content=os.urandom(3_000_000))))
    for first in (True, False):
        recorder = Recorder()
        await Copier(source, target, tmp_path, recorder).copy_blobs(manifest)
        layer = recorder.steps[-1]
        assert (sum(layer.done), layer.note) == (manifest.layers[0].size, "")
        assert (len(layer.done) > 1) is first
    await target.aclose()


async def test_what_failed_is_not_told_as_done(tmp_path: Path) -> None:
    source, target = LayoutRepository(tmp_path / "a"), LayoutRepository(tmp_path / "b")
    manifest = await image_of(source, make_tar(member("f", content=b"x")))
    (tmp_path / "a/blobs/sha256" / manifest.layers[0].digest.partition(":")[2]).unlink()
    recorder = Recorder()
    with pytest.raises(NotFoundError):
        await Copier(source, target, tmp_path, recorder).copy_blobs(manifest)
    assert [step.note for step in recorder.steps] == ["", "failed"]
