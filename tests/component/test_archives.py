"""Archives as skopeo writes them, and as nobody should."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cafs.errors import CafsError, IntegrityError, NotFoundError, UsageError
from cafs.oci.archive import open_oci_archive
from cafs.oci.docker_archive import open_docker_archive
from cafs.oci.image import find_image, list_images, load_config
from cafs.oci.layout import LayoutRepository
from cafs.oci.layout_reader import LayoutReader
from cafs.oci.media_types import OCI_LAYER
from cafs.oci.repository import read_blob
from tests.support.oci import attach_artifact, push_image

Files = list[tuple[str, bytes | str]]
LONG_NAME = tarfile.TarInfo("x" * 200).tobuf(tarfile.GNU_FORMAT)[:1024]
"""The header that says the next one's name."""


def endless_header(size: int) -> bytes:
    """A PAX header that states so many bytes."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(2048)


def write_tar(path: Path, files: Files) -> Path:
    """Text instead of bytes is the target of a symbolic link."""
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def layer_tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1000
        archive.addfile(member, io.BytesIO(os.urandom(1000)))
    return buffer.getvalue()


LAYERS = [layer_tar("one"), layer_tar("two")]


async def skopeo(*arguments: str) -> None:
    await trio.run_process(["skopeo", "--insecure-policy", "copy", *arguments], capture_stdout=True)


async def check_image(repository: LayoutReader, selector: str) -> None:
    image = await find_image(repository, selector)
    config = await load_config(repository, image.manifest)
    read = [await read_blob(repository, layer, 1 << 20) for layer in image.manifest.layers]
    plain = [gzip.decompress(c) if c.startswith(b"\x1f\x8b") else c for c in read]
    assert plain == LAYERS
    assert [f"sha256:{hashlib.sha256(c).hexdigest()}" for c in plain] == list(config.diff_ids)
    layer = image.manifest.layers[1]
    assert await repository.read_range(layer.blob, 5, 500) == read[1][5:505]


async def test_archives_written_by_skopeo(tmp_path: Path) -> None:
    layout = LayoutRepository(tmp_path / "layout")
    await push_image(layout, LAYERS, "v1")
    await skopeo(f"oci:{layout.root}:v1", f"oci-archive:{tmp_path}/oci.tar:v1")
    await skopeo(f"oci:{layout.root}:v1", f"docker-archive:{tmp_path}/docker.tar:example.org/x:1")
    for selector in ("v1", ""):
        await check_image(open_oci_archive(tmp_path / "oci.tar"), selector)
    docker = open_docker_archive(tmp_path / "docker.tar")
    for selector in ("example.org/x:1", ""):
        await check_image(docker, selector)
    await skopeo(f"oci:{layout.root}:v1", f"docker-archive:{tmp_path}/hub.tar:debian:12")
    for selector in ("debian:12", "docker.io/library/debian:12", "library/debian:12"):
        await check_image(open_docker_archive(tmp_path / "hub.tar"), selector)
    assert len(await list_images(docker, "")) == 1
    with pytest.raises(NotFoundError, match=r"it has: example\.org/x:1"):
        await docker.resolve("other:1")


async def test_what_cafs_writes_is_read_by_skopeo(tmp_path: Path) -> None:
    layout = LayoutRepository(tmp_path / "layout")
    image = await push_image(layout, LAYERS, "v1")
    await attach_artifact(layout, image, "kind/x", b"payload")
    await skopeo("--all", f"oci:{layout.root}:v1", f"oci:{tmp_path}/copy:v2")
    await check_image(LayoutRepository(tmp_path / "copy"), "v2")


async def test_referrers_in_an_archive(tmp_path: Path) -> None:
    layout = LayoutRepository(tmp_path / "layout")
    image = await push_image(layout, LAYERS, "v1")
    attached = await attach_artifact(layout, image, "kind/x", b"payload")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(layout.root, ".")
    archived = open_oci_archive(tmp_path / "a.tar")
    assert [d.digest for d in await archived.referrers(image, "kind/x")] == [attached.digest]
    assert (await archived.resolve("")).digest == image.digest
    with pytest.raises(UsageError, match="cannot be written to"):
        await archived.push_blob(b"x", image)


def docker_files(layers: list[bytes], **changes: object) -> Files:
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in LAYERS]
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    names = [f"{n}/layer.tar" for n in range(len(layers))]
    listed = [{"Config": "c.json", "RepoTags": None, "Layers": names, **changes}]
    files: Files = [(name, layer) for name, layer in zip(names, layers, strict=True)]
    return [*files, ("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps(listed).encode())]


async def test_compressed_layers_and_links(tmp_path: Path) -> None:
    packed = [gzip.compress(LAYERS[0]), LAYERS[1]]
    files = docker_files(packed)
    files[1] = ("1/layer.tar", "../shared/layer.tar")
    files.insert(0, ("./shared/layer.tar", LAYERS[1]))
    docker = open_docker_archive(write_tar(tmp_path / "d.tar", files))
    await check_image(docker, "")
    image = await find_image(docker, "")
    assert [layer.media_type for layer in image.manifest.layers] == [OCI_LAYER + "+gzip", OCI_LAYER]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.write_bytes(b""), "no index.json|no manifest.json|not a readable"),
        (lambda p: p.write_bytes(b"x" * 5000), "not a readable tar"),
        (lambda p: p.write_bytes(LONG_NAME * 3000 + bytes(1024)), "not a readable tar"),
        (lambda p: p.write_bytes(endless_header(1 << 40)), "states a header of"),
        (lambda p: p.write_bytes(endless_header(1 << 70)), "states a header of"),
        (lambda p: p.write_bytes(gzip.compress(b"x")), "is compressed: decompress it first"),
        (lambda p: write_tar(p, [("a", b"b")]), "no index.json|no manifest.json"),
        (lambda p: write_tar(p, [("index.json", b"[]"), ("manifest.json", b"{}")]), "not"),
        (
            lambda p: write_tar(p, [("index.json", "index.json"), ("manifest.json", "manifest.json")]),
            "a link",
        ),
        (lambda p: None, "no such file"),
    ],
)
@pytest.mark.parametrize("opener", [open_oci_archive, open_docker_archive])
async def test_archives_that_are_none(
    tmp_path: Path, make: Callable[[Path], object], says: str, opener: Callable[[Path], LayoutReader]
) -> None:
    make(tmp_path / "x.tar")
    with pytest.raises(CafsError, match=says) as error:
        await opener(tmp_path / "x.tar").resolve("")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Layers": ["0/layer.tar"]}, "holds 1 layers, its config names 2"),
        ({"Layers": ["0/layer.tar", "gone"]}, "lacks its layer 'gone'"),
        ({"Layers": ["0/layer.tar", "../../etc/passwd"]}, "lacks its layer"),
        ({"Layers": "x"}, "Layers is not an array"),
        ({"Config": "gone"}, "has no file gone"),
        ({"Config": None}, "Config is missing"),
        ({"RepoTags": [1]}, r"RepoTags\[0\]"),
    ],
)
async def test_docker_archives_that_lie(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = write_tar(tmp_path / "d.tar", docker_files(LAYERS, **changes))
    with pytest.raises((IntegrityError, NotFoundError), match=says):
        await open_docker_archive(path).resolve("")


async def test_a_layer_that_is_not_what_its_config_says(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", docker_files([LAYERS[0], LAYERS[0]]))
    docker = open_docker_archive(path)
    image = await find_image(docker, "")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        await read_blob(docker, image.manifest.layers[1], 1 << 20)


async def test_an_archive_cut_short(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", docker_files(LAYERS))
    whole = path.read_bytes()
    for end in (700, len(LAYERS[0]) + 600, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises((IntegrityError, NotFoundError)):
            await open_docker_archive(path).resolve("")
