"""`cafs convert` from and to every kind of place, then open_image: the two halves of the artifact meet."""

from __future__ import annotations

import io
import os
import tarfile
import uuid
from pathlib import Path

import pytest
import trio

from cafs.core.chunk import decode_frame
from cafs.core.settings import Settings
from cafs.fetch.open_image import OpenImage, open_image
from cafs.index.reader import ErofsReader
from cafs.oci.annotations import TITLE
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, Descriptor
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from tests.support.oci import log_in, manifest_bytes, push_bytes, push_image
from tests.support.program import run_cafs
from tests.support.registry import Registry

FILES = [{f"d/f{n}": os.urandom(3000 + n) for n in range(40)}, {f"e{n}": os.urandom(9000) for n in range(10)}]


def layer_tar(files: dict[str, bytes]) -> bytes:
    """A tar without an entry for its root, and without one for ``d``: both are implied."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


LAYERS = [layer_tar(files) for files in FILES]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run")


def convert(settings: Settings, *arguments: str) -> str:
    env = {"CAFS_CACHE_DIR": str(settings.cache_dir), "CAFS_RUN_DIR": str(settings.run_dir)}
    return run_cafs("convert", *arguments, env=env).out


async def read_all(image: OpenImage) -> list[dict[str, bytes]]:
    """Every file of every layer, straight from index and source."""
    layers = []
    for layer in image.layers:
        table, plain = layer.index.table, bytearray(layer.index.virtual_bytes)
        for number in range(len(table)):
            ref = table.row(number)
            frame = await layer.source.read_range(layer.index.blobs[ref.blob], ref.offset, ref.frame_bytes)
            chunk = decode_frame(ref.digest, ref.codec, frame, ref.plain_bytes)
            plain[table.start(number) : table.end(number)] = chunk.plain
        reader = ErofsReader(layer.index.metadata, layer.index.virtual_bytes)
        layers.append(_files_below(reader, reader.root_nid, "", plain))
    return layers


def _files_below(reader: ErofsReader, nid: int, prefix: str, plain: bytearray) -> dict[str, bytes]:
    files = {}
    for name, child, _ in reader.entries(nid):
        path = prefix + name.decode()
        if name in {b".", b".."}:
            continue
        if reader.inode(child).is_directory:
            files.update(_files_below(reader, child, f"{path}/", plain))
            continue
        extents = reader.extents(child)
        files[path] = (
            extents if isinstance(extents, bytes) else b"".join(plain[at : at + n] for _, at, n in extents)
        )
    return files


async def check(source: str, settings: Settings) -> None:
    async with await open_image(source, settings) as opened:
        assert await read_all(opened) == FILES


@pytest.mark.parametrize("kind", ["docker_registry", "token_registry"])
async def test_a_registry(
    request: pytest.FixtureRequest,
    kind: str,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    log_in(tmp_path, monkeypatch, registry.host)
    name = f"{registry.host}/e2e/t{uuid.uuid4().hex}"
    repository = RegistryRepository(*name.split("/", 1), settings)
    await push_image(repository, LAYERS, "v1")
    await repository.aclose()
    first = convert(settings, f"{name}:v1")
    again = convert(settings, f"docker://{name}:v1")
    assert first.split()[1] == again.split()[1], "a second conversion changes nothing"
    await check(f"{name}:v1", settings)


async def test_from_everywhere_to_everywhere(
    docker_registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    layout = LayoutRepository(tmp_path / "layout")
    await push_image(layout, LAYERS, "v1")
    source = f"oci:{layout.root}:v1"
    for kind in ("oci-archive", "docker-archive"):
        name = "v1" if kind == "oci-archive" else "example.org/x:1"
        target = f"{kind}:{tmp_path}/{kind}.tar:{name}"
        await trio.run_process(["skopeo", "--insecure-policy", "copy", source, target], capture_stdout=True)
    targets = [
        (source, source),
        (source, f"docker://{docker_registry.host}/e2e/t{uuid.uuid4().hex}:v1"),
        (f"oci-archive:{tmp_path}/oci-archive.tar:v1", f"oci:{tmp_path}/second:v1"),
        (f"docker-archive:{tmp_path}/docker-archive.tar", f"oci:{tmp_path}/third:v1"),
    ]
    for origin, target in targets:
        convert(settings, origin, target)
        await check(target, settings)


async def test_an_artifact_of_titled_files(settings: Settings, tmp_path: Path) -> None:
    layout = LayoutRepository(tmp_path / "layout")
    await layout.push_blob(EMPTY_JSON, EMPTY_CONFIG)
    layers = []
    for name, content in (("model.bin", os.urandom(200_000)), ("dir/notes.txt", b"hello")):
        blob = await push_bytes(layout, content)
        layers.append(Descriptor(blob.digest, blob.size, blob.media_type, annotations={TITLE: name}))
    content = manifest_bytes(EMPTY_CONFIG, layers, artifactType="application/vnd.test.model")
    await layout.push_manifest(content, OCI_MANIFEST, "model")
    convert(settings, f"oci:{layout.root}:model")
    async with await open_image(f"oci:{layout.root}:model", settings) as opened:
        found = await read_all(opened)
    assert [list(files) for files in found] == [["model.bin"], ["dir/notes.txt"]]
    assert found[1]["dir/notes.txt"] == b"hello"
