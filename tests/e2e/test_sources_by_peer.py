"""Content that is not plain HTTP, through real peers: shared directories, S3, private registries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cafs.core.settings import Settings
from cafs.download.registry import TITLE
from cafs.filesystem import CafsFileSystem
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from tests.support.oci import log_in, manifest_bytes, push_bytes
from tests.support.peers import Peer, Swarm
from tests.support.program import run_cafs
from tests.support.registry import Registry
from tests.support.s3 import s3_bucket

BODY = os.urandom((3 << 20) + 12345)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``s3://`` address of a bucket in a real server, which the environment leads to."""
    with s3_bucket(tmp_path, {"d/f": BODY, "open/f": BODY}) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket"


def get(peer: Peer, url: str, *more: str) -> str:
    """``cafs get`` of BODY through this node's peer; returns what it says."""
    target = peer.run_dir / "out"
    target.unlink(missing_ok=True)
    said = run_cafs("get", url, "-o", target, *more, *peer.flags)
    assert target.read_bytes() == BODY
    return said.out


def came(peer: Peer) -> tuple[int, int]:
    """From the source, and from hosts."""
    figures = peer.status()["downloads"]
    return figures["source_bytes"], figures["peer_bytes"]


@pytest.mark.parametrize("anonymous", [False, True])
def test_s3_leaves_the_bucket_once(hosts: Swarm, bucket: str, anonymous: bool) -> None:
    hosts.scheduler()
    first, second = hosts.peer("a"), hosts.peer("b")
    options, key = (["--anonymous"], "open/f") if anonymous else ([], "d/f")
    assert "by P2P" in get(first, f"{bucket}/{key}", *options)
    assert "by P2P" in get(second, f"{bucket}/{key}", *options)
    assert (came(first), came(second)) == ((len(BODY), 0), (0, len(BODY)))
    for peer in (first, second):
        assert "s3cr3t" not in peer.log.read_text()
    run_cafs("get", f"{bucket}/none", "-o", first.run_dir / "no", *options, *first.flags, code=1)
    if anonymous:
        run_cafs("get", f"{bucket}/d/f", "-o", first.run_dir / "no", *options, *first.flags, code=1)


def test_s3_without_a_peer_and_whole_directories(bucket: str, tmp_path: Path) -> None:
    settings = (f"--set=cache_dir={tmp_path}/c", f"--set=run_dir={tmp_path}/r")
    said = run_cafs("get", f"{bucket}/d", "-r", "-o", tmp_path / "all", *settings).out
    assert "straight" in said
    assert (tmp_path / "all/f").read_bytes() == BODY


def test_a_shared_directory_by_the_filesystem(hosts: Swarm, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY)
    hosts.scheduler()
    shared = f"--set=shared_directories={tmp_path}"
    first, second = hosts.peer("a", shared), hosts.peer("b", shared)
    url = (tmp_path / "f").as_uri()
    assert "by P2P" in get(first, url)
    filesystem = CafsFileSystem(peer=str(second.socket), skip_instance_cache=True)
    assert filesystem.info(f"cafs://{url}")["size"] == len(BODY)
    with filesystem.open(f"cafs://{url}", block_size=1 << 20) as file:
        file.seek(2 << 20)
        assert file.read(1000) == BODY[2 << 20 : (2 << 20) + 1000]
    assert filesystem.cat_file(f"cafs://{url}") == BODY
    assert came(second) == (0, len(BODY))
    with pytest.raises(FileNotFoundError):
        filesystem.info(f"cafs://{url}.none")


def test_what_the_peer_may_not_read_is_read_by_its_client(hosts: Swarm, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY)
    peer = hosts.peer("a")
    assert "straight" in get(peer, (tmp_path / "f").as_uri())
    filesystem = CafsFileSystem(peer=str(peer.socket), skip_instance_cache=True)
    assert filesystem.cat_file(f"cafs://{(tmp_path / 'f').as_uri()}", 5, 9) == BODY[5:9]
    assert peer.tasks() == []


async def push_artifact(host: str, folder: Path) -> None:
    """One of a single file, which is BODY."""
    repository = RegistryRepository(host, "by/peer", Settings(cache_dir=folder, run_dir=folder))
    try:
        await push_bytes(repository, EMPTY_JSON)
        layer = replace(await push_bytes(repository, BODY), annotations={TITLE: "model.bin"})
        await repository.push_manifest(manifest_bytes(EMPTY_CONFIG, [layer]), OCI_MANIFEST, "1")
    finally:
        await repository.aclose()


@pytest.mark.parametrize("private", ["token_registry", "basic_registry"])
def test_a_private_registrys_artifact(
    hosts: Swarm,
    private: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry: Registry = request.getfixturevalue(private)
    log_in(tmp_path, monkeypatch, registry.host)
    trio.run(push_artifact, registry.host, tmp_path)
    url = f"docker://{registry.host}/by/peer:1"
    hosts.scheduler()
    first, second = hosts.peer("a"), hosts.peer("b")
    assert "by P2P" in get(first, url)
    assert "by P2P" in get(second, url)
    assert (came(first), came(second)) == ((len(BODY), 0), (0, len(BODY)))
    # Whoever is not let in by the registry gets nothing of what the peers have.
    monkeypatch.delenv("DOCKER_CONFIG")
    target = second.run_dir / "none"
    said = run_cafs("get", url, "-o", target, *second.flags, code=1)
    assert "401" in said.err or "log in" in said.err
    assert not target.exists()
