"""`cafs convert` on what lies, breaks off, does not fit or is interrupted; and what it does not do twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cafs.oci.descriptor import Descriptor
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import IMAGE_ARTIFACT, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from tests.support.oci import image_config, manifest_bytes, push_bytes, push_image
from tests.support.patience import PATIENCE_S
from tests.support.program import Outcome, cafs_command, run_cafs
from tests.support.registry import Registry
from tests.support.tars import make_tar, member

TEXT = b"".join(b"%d\n" % n for n in range(200_000))
LAYER = make_tar(member("text", content=TEXT))


class Place:
    """A layout, a cache, and ``cafs convert`` between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.layout = LayoutRepository(folder / "layout")
        self.source = f"oci:{folder}/layout:v1"

    @property
    def env(self) -> dict[str, str]:
        return {"CAFS_CACHE_DIR": str(self.cache), "CAFS_RUN_DIR": str(self.folder / "run")}

    def convert(self, *arguments: str, code: int = 0) -> Outcome:
        outcome = run_cafs("--json", "--quiet", "convert", *arguments, env=self.env, code=code)
        assert list(self.cache.glob("convert/*")) == [], "temporary files were left"
        if code:
            assert outcome.err.count("\n") == 1, outcome.err
        return outcome

    async def artifacts(self) -> list[Descriptor]:
        image = await self.layout.resolve("v1")
        return await self.layout.referrers(image, IMAGE_ARTIFACT)

    def blob(self, content: bytes) -> Path:
        return self.folder / "layout/blobs/sha256" / hashlib.sha256(content).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def push_lying(place: Place, stored: bytes, plain: bytes, **lies: object) -> None:
    """An image whose config speaks of ``plain`` and whose layer is ``stored``."""
    config = await push_bytes(place.layout, image_config([plain]), OCI_CONFIG)
    layer = await push_bytes(place.layout, stored, OCI_LAYER + "+gzip")
    claimed = Descriptor(layer.digest, int(str(lies.get("size", layer.size))), layer.media_type)
    await place.layout.push_manifest(manifest_bytes(config, [claimed]), OCI_MANIFEST, "v1")


async def test_a_flipped_bit_in_a_layer(place: Place) -> None:
    await push_image(place.layout, [LAYER], "v1")
    path = place.blob(LAYER)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert "digest" in place.convert(place.source, code=3).err
    assert await place.artifacts() == []


async def test_a_diff_id_that_lies(place: Place) -> None:
    await push_lying(place, gzip.compress(LAYER), LAYER + bytes(512))
    assert "config says" in place.convert(place.source, code=3).err
    assert await place.artifacts() == []


async def test_a_size_that_lies(place: Place) -> None:
    packed = gzip.compress(LAYER)
    await push_lying(place, packed, LAYER, size=len(packed) - 1)
    place.convert(place.source, code=3)
    assert await place.artifacts() == []


async def test_a_truncated_layer(place: Place) -> None:
    await push_lying(place, gzip.compress(LAYER)[:-5000], LAYER)
    assert "truncated" in place.convert(place.source, code=3).err
    assert await place.artifacts() == []


async def test_a_hostile_layer_names_its_entry(place: Place) -> None:
    hostile = make_tar(member("fine", content=b"x"), member("../../etc/passwd", content=b"x"))
    await push_image(place.layout, [LAYER, hostile], "v1")
    assert "../../etc/passwd" in place.convert(place.source, code=3).err
    assert await place.artifacts() == []


async def test_layers_that_were_converted_are_not_converted_again(place: Place) -> None:
    more = make_tar(member("more", content=TEXT[:5000]))
    await push_image(place.layout, [LAYER], "v1")
    await push_image(place.layout, [LAYER, more], "v2")
    new = [
        place.convert(f"oci:{place.folder}/layout:{tag}").json[0]["converted_layers"]
        for tag in ("v1", "v1", "v2", "v2")
    ]
    assert new == [1, 0, 1, 0]


async def test_a_layer_on_top_of_others_is_converted_anew_where_they_decide(place: Place) -> None:
    """A directory without an entry is as the layers below have it, and made anew where they have none."""
    upper = make_tar(member("kept/file", content=b"x"))
    below = make_tar(member("kept", type=tarfile.DIRTYPE, mode=0o700, uid=7))
    for tag, layers in {"alone": [upper], "on-others": [LAYER, upper], "on-it": [below, upper]}.items():
        await push_image(place.layout, layers, tag)
        image = f"oci:{place.folder}/layout:{tag}"
        place.convert(image)
        listed = run_cafs("--json", "ls", image, env=place.env).json
        (kept,) = (entry for entry in listed if entry["path"] == "kept")
        assert (kept["mode"], kept["uid"]) == (("0700", 7) if tag == "on-it" else ("0755", 0)), tag
        assert place.convert(image).json[0]["converted_layers"] == 0


async def test_a_conversion_in_another_repository_is_taken_over(place: Place) -> None:
    await push_image(place.layout, [LAYER], "v1")
    place.convert(place.source)
    told = place.convert(place.source, f"oci:{place.folder}/second:v1").json
    assert told[0]["converted_layers"] == 0
    run_cafs("check", f"oci:{place.folder}/second:v1", env=place.env)


async def test_every_platform_gets_its_artifact(place: Place) -> None:
    entries = []
    for architecture in ("amd64", "arm64"):
        layer = make_tar(member(architecture, content=TEXT[:3000]))
        image = await push_image(place.layout, [layer], None, architecture)
        entries.append(
            {
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": image.size,
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    await place.layout.push_manifest(index, kind, "v1")
    one = place.convert(place.source, "--platform", "linux/arm64").json
    assert [result["image"] for result in one] == [entries[1]["digest"]]
    both = place.convert(place.source).json
    assert [result["image"] for result in both] == [entry["digest"] for entry in entries]
    assert [result["converted_layers"] for result in both] == [1, 0]
    assert "linux/amd64" in place.convert(place.source, "--platform", "linux/s390x", code=1).err


async def push_for_two_platforms(place: Place, tag: str = "v1", more: bytes = b"") -> list[str]:
    """An image as buildx builds it, with an attestation; answers the digests of the images."""
    entries = []
    for architecture in ("amd64", "arm64"):
        content = hashlib.shake_128(architecture.encode()).digest(400_000) + more
        layer = make_tar(member(architecture, content=content))
        image = await push_image(place.layout, [layer], None, architecture)
        entries.append((image, {"os": "linux", "architecture": architecture}))
    statement = await push_bytes(place.layout, b"{}", "application/vnd.in-toto+json")
    config = await push_bytes(place.layout, image_config([b"{}"]), OCI_CONFIG)
    attestation = await place.layout.push_manifest(manifest_bytes(config, [statement]), OCI_MANIFEST)
    entries.append((attestation, {"os": "unknown", "architecture": "unknown"}))
    manifests = [
        {"mediaType": found.media_type, "digest": found.digest, "size": found.size, "platform": platform}
        for found, platform in entries
    ]
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()
    await place.layout.push_manifest(index, kind, tag)
    return [found.digest for found, _ in entries[:2]]


@pytest.mark.parametrize("where", ["layout", "registry"])
async def test_images_of_several_platforms_go_elsewhere_whole_or_alone(
    place: Place, docker_registry: Registry, where: str
) -> None:
    """A registry takes no image index of which it has not all, and a layout must not hold one either."""
    images = await push_for_two_platforms(place)
    here = f"{docker_registry.host}/platforms/t{uuid.uuid4().hex}"
    whole, alone = (
        f"{here}-{name}:v1" if where == "registry" else f"oci:{place.folder}/{name}:v1"
        for name in ("whole", "alone")
    )
    assert [told["image"] for told in place.convert(place.source, whole).json] == images
    for platform in ("linux/amd64", "linux/arm64"):
        run_cafs("check", whole, "--platform", platform, env=place.env)
    told = place.convert("--platform", "linux/arm64", place.source, alone).json
    assert [document["image"] for document in told] == images[1:]
    run_cafs("check", alone, env=place.env)
    for image in (whole, alone):
        source = image if where == "layout" else f"docker://{image}"
        copy = ["skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false", source]
        await trio.run_process([*copy, f"dir:{place.folder}/copied-{image[-6:-3]}"], capture_stdout=True)


async def test_a_dictionary_stores_only_what_is_new(place: Place) -> None:
    files = {f"d/{n:04}": hashlib.shake_128(b"%d" % n).digest(20_000) for n in range(300)}
    for version in ("v1", "v2"):
        layer = make_tar(*(member(name, content=content) for name, content in files.items()))
        await push_image(place.layout, [layer], version)
        for n in range(100, 110):
            files[f"d/{n:04}"] = hashlib.shake_128(b"new %d" % n).digest(20_000)
    place.convert(place.source)
    second = f"oci:{place.folder}/layout:v2"
    told = place.convert("--chunk-dict", place.source, second).json
    layer = told[0]["layers"][0]
    assert 200_000 <= layer["chunk_bytes"] <= 2 * 200_000
    assert len(layer["other_blobs"]) == 1
    run_cafs("check", second, env=place.env)


async def test_a_digest_as_target_is_that_of_the_image(place: Place) -> None:
    """Nothing comes where its name would lie."""
    _, image = await push_for_two_platforms(place)
    whole = (await place.layout.resolve("v1")).digest
    alone = f"oci:{place.folder}/alone@{image}"
    refused = place.convert(place.source, alone, code=2).err
    assert whole in refused
    assert "give TARGET a tag" in refused
    assert not (place.folder / "alone").exists()
    only = ["--platform", "linux/arm64"]
    for arguments in ([place.source, alone], [f"oci:{place.folder}/layout@{whole}"]):
        assert place.convert(*only, *arguments).json[0]["image"] == image
    run_cafs("check", alone, env=place.env)


async def test_what_is_converted_is_not_converted_itself(place: Place) -> None:
    (place.folder / "tree").mkdir()
    place.convert(f"dir:{place.folder}/tree", place.source)
    assert "converted already" in place.convert(place.source, code=2).err


@pytest.mark.parametrize("options", [[], ["--image", "new"]], ids=["attached", "bound"])
async def test_a_dictionary_of_several_platforms_serves_each(place: Place, options: list[str]) -> None:
    """Whatever machine converts: nothing depends on its own platform."""
    second, third, lone = (f"oci:{place.folder}/layout:{tag}" for tag in ("v2", "v3", "lone"))
    for number in (1, 2, 3):
        await push_for_two_platforms(place, f"v{number}", b"new" * 1000 * number)
    await push_image(place.layout, [make_tar(member("arm64", content=TEXT))], "lone", "arm64")
    place.convert(place.source)
    options = [word.replace("new", f"oci:{place.folder}/layout:new") for word in options]
    for told in place.convert("--chunk-dict", place.source, *options, second).json:
        (layer,) = told["layers"]
        assert layer["chunk_bytes"] < 200_000
        assert len(layer["other_blobs"]) == 1
    only = ["--platform", "linux/arm64", "--chunk-dict", lone]
    place.convert(*only, third, code=1)  # not converted
    place.convert(lone)
    assert len(place.convert(*only, third).json) == 1, "a lone one is used whatever it is for"


@pytest.mark.parametrize("kind", ["dir", "tar", "image"])
@pytest.mark.parametrize("where", ["layout", "registry"])
async def test_a_dictionary_of_another_repository_comes_along(
    place: Place, docker_registry: Registry, kind: str, where: str
) -> None:
    """What the artifact refers to lies beside it: a mount reads all from one repository."""
    tree = place.folder / "tree"
    tree.mkdir()
    for n in range(40):
        (tree / f"{n:02}").write_bytes(hashlib.shake_128(b"%d" % n).digest(20_000))
    place.convert(f"dir:{tree}", f"oci:{place.folder}/known:v1")
    (tree / "new").write_bytes(b"new" * 5000)
    layer = make_tar(*(member(path.name, content=path.read_bytes()) for path in sorted(tree.iterdir())))
    (place.folder / "x.tar").write_bytes(layer)
    await push_image(place.layout, [layer], "v1")
    source = {"dir": f"dir:{tree}", "tar": f"tar:{place.folder}/x.tar", "image": place.source}[kind]
    name = f"{docker_registry.host}/dictionary/t{uuid.uuid4().hex}:v1"
    target = name if where == "registry" else f"oci:{place.folder}/out:v1"
    (told,) = place.convert("--chunk-dict", f"oci:{place.folder}/known:v1", source, target).json
    assert told["layers"][0]["chunk_bytes"] < 100_000
    assert len(told["layers"][0]["other_blobs"]) == 1
    run_cafs("check", target, env=place.env)


async def test_a_file_that_is_missing_and_targets_that_cannot_be(place: Place) -> None:
    target = f"oci:{place.folder}/out:x"
    assert "there is no such file" in place.convert(f"tar:{place.folder}/nothing", target, code=1).err
    assert "there is no such directory" in place.convert(f"dir:{place.folder}/nothing", target, code=1).err
    assert f"write dir:{place.folder}" in place.convert(f"tar:{place.folder}", target, code=2).err
    assert "is no regular file" in place.convert("tar:/dev/null", target, code=2).err
    assert "the root must be a directory" in place.convert("dir:/dev/null", target, code=2).err
    place.convert(f"dir:{place.folder}", code=2)
    assert (
        "leave --platform out" in place.convert("--platform=a/b", f"dir:{place.folder}", target, code=2).err
    )
    by_digest = f"oci:{place.folder}/other@sha256:{'0' * 64}"
    assert "gets a tag" in place.convert(f"dir:{place.folder}", by_digest, code=2).err
    place.convert(f"dir:{place.folder}", f"tar:{place.folder}/x", code=2)


def test_attributes_that_are_left_out_are_told(place: Place) -> None:
    text = {"SCHILY.acl.access": "user::rw-\n", "SCHILY.acl.default": "user::rw-\n"}
    overlay = {"SCHILY.xattr.trusted.overlay.opaque": "y"}
    archive = place.folder / "acls.tar"
    archive.write_bytes(make_tar(member("f", pax_headers=text), member("g", pax_headers=text | overlay)))
    told = run_cafs(
        "convert", f"tar:{archive}", f"oci:{place.folder}/out:x", env=place.env, warns="acls.tar: .* left out"
    ).err
    assert "4 ACLs and SELinux labels in GNU tar's own form left out" in told
    assert "1 trusted.overlay.* attributes left out" in told


def big_tar(path: Path, size: int) -> None:
    """An archive with one file of zeros, which takes no room on disk."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    with path.open("wb") as file:
        file.write(info.tobuf())
        file.truncate(512 + size + 1024)


@pytest.mark.parametrize("kind", ["tar", "dir"])
def test_ctrl_c_leaves_nothing(place: Place, kind: str) -> None:
    tree = place.folder / "tree"
    tree.mkdir()
    if kind == "dir":
        source = f"dir:{tree}"
        for n in range(20_000):
            (tree / f"{n}").write_bytes(b"%0200d" % n)
    else:
        source = f"tar:{tree}/big.tar"
        big_tar(tree / "big.tar", 20 << 30)
    target = place.folder / "out"
    process = subprocess.Popen(
        cafs_command("convert", source, f"oci:{target}:x"),
        env={**os.environ, **place.env},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(place.cache.glob("convert/*/*.chunks")):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert list(place.cache.glob("convert/*")) == []
    assert not (target / "index.json").exists()


async def test_machines_that_know_nothing_of_each_other_make_the_same_artifact(place: Place) -> None:
    """Other caches, other targets, another number of threads; layers that finish in any order."""
    layers = [make_tar(member(f"f{n}", content=TEXT[n : 400_000 * n + 5000])) for n in range(4)]
    layers.append(
        make_tar(member("again", tarfile.LNKTYPE, linkname="f1"), member("d/of-nobody", content=TEXT))
    )
    await push_image(place.layout, layers, "v1")
    made = []
    for workers in (1, 2, 7):
        place.cache = place.folder / f"cache{workers}"
        target = f"oci:{place.folder}/out{workers}:v1"
        told = place.convert(f"--set=convert_workers={workers}", place.source, target).json
        assert told[0]["converted_layers"] == len(layers)
        made.append(told)
    assert made[0] == made[1] == made[2]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "cafs-test-tiny", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(place: Place, tiny_disk: Path) -> None:
    source = place.folder / "noise"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(3 << 20))
    place.cache = tiny_disk / "cache"
    outcome = place.convert(f"dir:{source}", f"oci:{place.folder}/out:x", code=1)
    assert "space" in outcome.err
    place.cache = place.folder / "cache"
    outcome = place.convert(f"dir:{source}", f"oci:{tiny_disk}/out:x", code=1)
    assert "space" in outcome.err
    assert not (tiny_disk / "out/index.json").exists()


def test_memory_does_not_grow_with_the_layer(place: Place) -> None:
    size = 600 << 20
    info = tarfile.TarInfo("noise")
    info.size = size
    path = place.folder / "large.tar"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        file.write(info.tobuf())
        for n in range(size >> 20):
            file.write(block[n:] + block[:n])
        file.write(bytes(1024))
    assert peak_bytes(place, f"tar:{path}", f"oci:{place.folder}/out:x") < 250 << 20
    path.unlink()


async def test_memory_does_not_grow_with_the_cores(place: Place) -> None:
    """Nor with the layers that they could convert at once."""
    noise = (make_tar(member("noise", content=os.urandom(32 << 20))) for _ in range(12))
    layers = [await push_bytes(place.layout, layer, OCI_LAYER) for layer in noise]
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}  # they are not compressed
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode()
    described = await push_bytes(place.layout, config, OCI_CONFIG)
    await place.layout.push_manifest(manifest_bytes(described, layers), OCI_MANIFEST, "v1")
    assert peak_bytes(place, "--set=convert_workers=12", place.source) < 400 << 20


def peak_bytes(place: Place, *arguments: str) -> int:
    """How much memory a conversion had at its highest."""
    command = cafs_command("--quiet", "convert", *arguments)
    # Started by a small process: what a forking parent holds counts as its child's, too.
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        env={**os.environ, **place.env},
        stdout=subprocess.PIPE,
        check=True,
        timeout=100,
    )
    return int(done.stdout) << 10
