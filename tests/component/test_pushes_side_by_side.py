"""What a real registry answers to one of two programs that push the same at once."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import trio

from cafs.core.settings import Settings
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from tests.support.oci import push_image
from tests.support.patience import PATIENCE_S
from tests.support.registry import Registry


async def test_a_registry_that_reads_a_file_it_is_just_writing(docker_registry: Registry) -> None:
    """Two programs push the same blob: docker-registry writes its link anew, and reads it empty meanwhile."""
    settings = Settings(cache_dir=Path("unused"), run_dir=Path("unused"), retries=5)
    patient = RegistryRepository(docker_registry.host, f"registry/t{uuid.uuid4().hex}", settings)
    image = await push_image(patient, [b"a layer of its own"])
    content = await patient.manifest(image)
    layer = json.loads(content)["layers"][0]["digest"]
    link = docker_registry.link_path(patient.repository, layer)
    written = link.read_bytes()
    link.write_bytes(b"")

    async def write_it_whole() -> None:
        with trio.fail_after(PATIENCE_S):
            refused = f"{patient.repository}/manifests/{image.digest}"
            while refused not in _refused(docker_registry):  # noqa: ASYNC110 - another process
                await trio.sleep(0.02)
        link.write_bytes(written)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_it_whole)
        assert await patient.push_manifest(content, OCI_MANIFEST) == image
    await patient.aclose()


def _refused(registry: Registry) -> str:
    return "".join(line for line in registry.log().splitlines() if "digest invalid" in line)
