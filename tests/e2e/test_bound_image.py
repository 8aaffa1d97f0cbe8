"""`cafs convert --image`: a new image whose digest binds its index artifact, and which others just pull."""

from __future__ import annotations

import gzip
import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
import trio

from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import IMAGE_ARTIFACT, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.repository import Repository
from tests.support.faults import FaultyRegistry
from tests.support.oci import image_config, manifest_bytes, push_bytes
from tests.support.tars import make_tar, member
from tests.support.user import QUICK, User, layout_repository, plain_http

FILES = {"amd64": b"hello amd64 " * 40, "arm64": b"hello arm64 " * 40}
LAYERS = {
    name: [make_tar(member("base", content=b"base" * 99)), make_tar(member("file", content=content))]
    for name, content in FILES.items()
}


def push(repository: Repository) -> None:
    """``v1`` for one platform, ``multi`` for two."""

    async def run() -> None:
        entries = []
        for name, layers in LAYERS.items():
            config = await push_bytes(repository, image_config(layers, name), OCI_CONFIG)
            # Compressed: skopeo compresses what is not, and so makes another image of it.
            blobs = [
                await push_bytes(repository, gzip.compress(layer, mtime=0), OCI_LAYER + "+gzip")
                for layer in layers
            ]
            tag = "v1" if name == "amd64" else None
            image = await repository.push_manifest(manifest_bytes(config, blobs), OCI_MANIFEST, tag)
            platform = {"os": "linux", "architecture": name}
            pointer = {"mediaType": image.media_type, "digest": image.digest, "size": image.size}
            entries.append({**pointer, "platform": platform})
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        await repository.push_manifest(json.dumps(index).encode(), OCI_INDEX, "multi")
        await repository.aclose()

    trio.run(run)


@pytest.fixture
def remote(user: User, faulty_registry: FaultyRegistry) -> str:
    """The name of a repository that holds ``v1`` and ``multi``."""
    host = faulty_registry.host
    user.settings = (*QUICK, f"insecure_registries={host}")
    name = f"bound/t{uuid.uuid4().hex}"
    push(RegistryRepository(host, name, plain_http(user, host)))
    return f"{host}/{name}"


def skopeo(*words: str | Path) -> str:
    tls = {"copy": ["--src-tls-verify=false", "--dest-tls-verify=false"], "inspect": ["--tls-verify=false"]}
    options = ["--insecure-policy", words[0], *tls[str(words[0])], *words[1:]]
    done = subprocess.run(["skopeo", *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def directly(remote: str, registry: FaultyRegistry) -> str:
    """For skopeo, which sends one Accept header for each kind of manifest: the proxy passes on but one."""
    return remote.replace(registry.host, registry.upstream_host)


def unpacked(layout: Path, tag: str, target: Path) -> Path:
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", target], check=True, capture_output=True
    )
    return target


def requests(registry: FaultyRegistry) -> list[str]:
    return [request.path for request in registry.settled()]


def convert(user: User, *words: str) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = user.cafs("--json", "convert", *words).json
    return documents


def test_cafs_finds_the_artifact_without_asking_for_referrers(
    user: User, remote: str, faulty_registry: FaultyRegistry
) -> None:
    (made,) = convert(user, f"{remote}:v1", "--image", f"{remote}:new")
    user.cafs("ls", f"{remote}:v1", code=1, says="not converted")
    for reference in ("new", made["new_image"], made["new_manifest"]):
        separator = "@" if reference.startswith("sha256:") else ":"
        faulty_registry.forget()
        told = user.cafs("cat", f"{remote}{separator}{reference}", "file")
        assert told.out.encode() == FILES["amd64"]
        assert [path for path in requests(faulty_registry) if "sha256-" in path or "referrers" in path] == []
    assert "named by the image's own manifest" in user.cafs("inspect", f"{remote}:new").out
    with user.mounted(f"{remote}:new") as root:
        assert (root / "file").read_bytes() == FILES["amd64"]
    user.cafs("check", f"{remote}:new")


def test_others_pull_it_as_any_image(
    user: User, remote: str, faulty_registry: FaultyRegistry, tmp_path: Path
) -> None:
    real = directly(remote, faulty_registry)
    convert(user, f"{remote}:v1", "--image", f"{remote}:new")
    told = json.loads(skopeo("inspect", "--override-arch=amd64", f"docker://{real}:new"))
    assert len(told["Layers"]) == 2
    skopeo("copy", "--override-arch=amd64", f"docker://{real}:new", f"oci:{tmp_path}/pulled:new")
    tree = unpacked(tmp_path / "pulled", "new", tmp_path / "tree")
    assert (tree / "file").read_bytes() == FILES["amd64"]
    told = user.cafs(
        "ls", f"oci:{tmp_path}/pulled:new", code=1, says="copy the whole image", warns="passing over"
    )


def test_copied_whole_it_keeps_its_artifact(user: User, remote: str, faulty_registry: FaultyRegistry) -> None:
    real = directly(remote, faulty_registry)
    (made,) = convert(user, f"{remote}:v1", "--image", f"{remote}:new")
    skopeo("copy", "--all", f"docker://{real}:new", f"docker://{real}-copy:new")
    # Debian's skopeo writes every image index anew; the manifests in it stay what they are.
    for reference in (":new", f"@{made['new_manifest']}"):
        told = user.cafs("cat", f"{remote}-copy{reference}", "file")
        assert told.out.encode() == FILES["amd64"]


def test_several_platforms_into_another_repository(
    user: User, remote: str, faulty_registry: FaultyRegistry, tmp_path: Path
) -> None:
    real = directly(remote, faulty_registry)
    made = convert(user, f"{remote}:multi", "--image", f"{remote}-new:1")
    assert len({document["new_manifest"] for document in made}) == len(made) == 2
    for name, content in FILES.items():
        told = user.cafs("cat", f"{remote}-new:1", "file", f"--platform=linux/{name}")
        assert told.out.encode() == content
        skopeo("copy", f"--override-arch={name}", f"docker://{real}-new:1", f"oci:{tmp_path}/{name}:x")
        assert (unpacked(tmp_path / name, "x", tmp_path / f"{name}-tree") / "file").read_bytes() == content
    again = convert(user, f"{remote}:multi", "--image", f"{remote}-new:1")
    assert [document["new_image"] for document in again] == [document["new_image"] for document in made]
    assert [document["converted_layers"] for document in again] == [0, 0]


@pytest.mark.parametrize("tag", ["v1", "multi"])
def test_into_an_oci_layout(user: User, tag: str, tmp_path: Path) -> None:
    push(layout_repository(user))
    user.cafs("convert", f"oci:{user.layout}:{tag}", "--image", f"oci:{tmp_path}/out:new")
    told = user.cafs("cat", f"oci:{tmp_path}/out:new", "file", "--platform=linux/amd64")
    assert told.out.encode() == FILES["amd64"]
    skopeo("copy", "--override-arch=amd64", f"oci:{tmp_path}/out:new", f"oci:{tmp_path}/pulled:new")
    tree = unpacked(tmp_path / "pulled", "new", tmp_path / "tree")
    assert (tree / "file").read_bytes() == FILES["amd64"]


def test_where_a_key_is_wanted_the_binding_is_enough_and_a_signature_stays(user: User, remote: str) -> None:
    key, public = user.path / "key.pem", user.path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    wanted = f"--set=trusted_keys={public}"
    convert(user, f"{remote}:v1", "--image", f"{remote}:new")
    assert user.cafs("cat", f"{remote}:new", "file", wanted).out.encode() == FILES["amd64"]
    (made,) = convert(user, f"{remote}:v1", "--image", f"{remote}:signed", "--sign-key", str(key))
    assert user.cafs("--json", "inspect", f"{remote}:signed").json["signature"]["valid"]
    # Its artifact is a referrer of nobody: the original image is as it was.
    user.cafs("cat", f"{remote}@{made['image']}", "file", wanted, code=1, says="not converted")


def test_what_is_written_is_a_whole_index(user: User, tmp_path: Path) -> None:
    push(layout_repository(user))
    (made,) = convert(user, f"oci:{user.layout}:v1", "--image", f"oci:{tmp_path}/out:new")

    async def load() -> Any:
        layout = LayoutRepository(tmp_path / "out")
        return json.loads(await layout.manifest(await layout.resolve("new")))

    image, artifact = trio.run(load)["manifests"]
    assert (image["digest"], artifact["digest"]) == (made["new_manifest"], made["artifact"])
    assert image["platform"] == {"os": "linux", "architecture": "amd64"}
    assert artifact["platform"] == {"os": "unknown", "architecture": "unknown"}
    assert artifact["artifactType"] == IMAGE_ARTIFACT


def test_what_cannot_be_bound(user: User, tmp_path: Path) -> None:
    push(layout_repository(user))
    source, target = f"oci:{user.layout}:v1", f"oci:{tmp_path}/out:new"
    user.cafs("convert", source, target, "--image", target, code=2, says="either TARGET or --image")
    user.cafs("convert", source, "--image", source, code=2, says="a name of its own")
    user.cafs("convert", f"dir:{tmp_path}", "--image", target, code=2, says="no image")
    user.cafs("convert", source, "--image", f"localhost:1/x@sha256:{'0' * 64}", code=2, says="digest")
    user.cafs("convert", source, "--image", f"docker-archive:{tmp_path}/x", code=2, says="cannot write")
    assert not (tmp_path / "out").exists()
