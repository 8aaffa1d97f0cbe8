"""Whose index artifacts are believed: signed ones, some registries', and what others attach later."""

from __future__ import annotations

import subprocess
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from cafs.oci.artifact import IndexArtifact, encode_artifact, parse_artifact
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Manifest, load_manifest
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.signature import load_signing_key
from tests.support.faults import FaultyRegistry, Status
from tests.support.oci import push_image
from tests.support.program import Outcome
from tests.support.tars import make_tar, member
from tests.support.user import QUICK, User, plain_http

HELLO, EVIL = b"hello " * 40, b"evil! " * 40
LAYER, EVIL_LAYER = (make_tar(member("file", content=content, mode=0o644)) for content in (HELLO, EVIL))


@dataclass(frozen=True)
class Node:
    """A user with keys, an image in a registry, and somebody else who may push there."""

    user: User
    registry: FaultyRegistry
    name: str

    @property
    def image(self) -> str:
        return f"{self.registry.host}/{self.name}:v1"

    def key(self, name: str) -> Path:
        """The private key of somebody; its public half lies beside it."""
        path = self.user.path / f"{name}.pem"
        if not path.exists():
            subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
            public = path.with_suffix(".pub")
            subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", public], check=True)
        return path

    def convert(self, image: str | None = None, key: str | None = None) -> Outcome:
        words = ["--sign-key", self.key(key)] if key else []
        return self.user.cafs("--json", "convert", *words, image or self.image)

    def cat(self, *settings: str, image: str | None = None, code: int = 0, says: str = "") -> str:
        words = [f"--set={setting}" for setting in settings]
        return self.user.cafs("cat", *words, image or self.image, "file", code=code, says=says).out

    def trusting(self, *names: str) -> str:
        """The setting that trusts these keys."""
        return "trusted_keys=" + ",".join(str(self.key(name).with_suffix(".pub")) for name in names)

    def forget(self) -> None:
        """As a node that never saw the image."""
        for path in (*self.user.cache.glob("image/*"), *self.user.cache.glob("converted/*")):
            path.unlink()

    def repository(self, name: str | None = None) -> RegistryRepository:
        host = self.registry.host
        return RegistryRepository(host, name or self.name, plain_http(self.user, host))

    def artifact(self, digest: str, name: str | None = None) -> IndexArtifact:
        """An artifact that was pushed."""

        async def load() -> IndexArtifact:
            repository = self.repository(name)
            try:
                descriptor = await repository.resolve(digest)
                document = await load_manifest(repository, descriptor)
            finally:
                await repository.aclose()
            assert isinstance(document, Manifest)
            return parse_artifact(document, digest)

        return trio.run(load)

    def attach(self, artifact: IndexArtifact) -> None:
        """What anybody who may push can do."""

        async def push() -> None:
            repository = self.repository()
            assert artifact.subject is not None
            await repository.attach(encode_artifact(artifact), OCI_MANIFEST, artifact.subject)
            await repository.aclose()

        trio.run(push)

    def push(self, layer: bytes, tag: str = "v1") -> Descriptor:
        async def push() -> Descriptor:
            repository = self.repository()
            pushed = await push_image(repository, [layer], tag)
            await repository.aclose()
            return pushed

        return trio.run(push)


@pytest.fixture
def node(user: User, faulty_registry: FaultyRegistry) -> Node:
    """The image is pushed and not converted."""
    user.settings = (f"insecure_registries={faulty_registry.host}", *QUICK)
    node = Node(user, faulty_registry, f"trust/t{uuid.uuid4().hex}")
    node.push(LAYER)
    return node


def newest(artifact: IndexArtifact) -> IndexArtifact:
    return artifact._replace(generation=10**17)


def test_a_signed_image_is_believed_where_its_key_is_trusted(node: Node) -> None:
    node.convert(key="mine")
    assert node.cat(node.trusting("mine")).encode() == HELLO
    assert node.cat(node.trusting("other", "mine")).encode() == HELLO
    text = str(load_signing_key(node.key("mine")).public)
    assert node.cat(f"trusted_keys={text}").encode() == HELLO
    assert node.cat(f"trusted_keys={node.registry.host} {text}").encode() == HELLO
    with node.user.mounted(node.image, f"--set={node.trusting('mine')}") as root:
        assert (root / "file").read_bytes() == HELLO
    node.user.cafs("check", node.image, f"--set={node.trusting('mine')}")
    told = node.user.cafs("inspect", node.image)
    assert f"signed by {text}" in told.out
    assert node.user.cafs("--json", "inspect", node.image).json["signature"] == {"key": text, "valid": True}


@pytest.mark.parametrize("key", [None, "other"])
def test_nothing_is_believed_that_no_trusted_key_signed(node: Node, key: str | None) -> None:
    node.convert(key=key)
    says = "not in trusted_keys" if key else "not signed"
    trusting = f"--set={node.trusting('mine')}"
    node.cat(node.trusting("mine"), code=1, says=says)
    for command in ("ls", "inspect", "check"):
        node.user.cafs(command, node.image, trusting, code=1, says=says)
    node.user.cafs("mount", node.image, node.user.target, trusting, code=1, says=says)
    node.user.assert_nothing_mounted()
    assert node.cat(node.trusting("mine"), "signed_registries=elsewhere.example").encode() == HELLO
    assert node.cat().encode() == HELLO


def evil_artifact(node: Node) -> IndexArtifact:
    """An index that shows other content than the image has, with all its blobs in the repository."""
    node.push(EVIL_LAYER, "evil")
    evil = node.artifact(node.convert(node.image.replace(":v1", ":evil")).json[0]["artifact"])
    honest = node.artifact(node.convert().json[0]["artifact"])
    layer = replace(evil.layers[0], layer_digest=honest.layers[0].layer_digest)
    return evil._replace(subject=honest.subject, layers=(layer,))


def test_what_somebody_attached_later_is_passed_over(node: Node) -> None:
    evil = newest(evil_artifact(node))
    signed = node.artifact(node.convert(key="mine").json[0]["artifact"])
    other = load_signing_key(node.key("other"))
    for false in (
        evil,
        evil._replace(signature=other.sign(evil)),
        evil._replace(signature=signed.signature),
        evil._replace(signature=replace(other.sign(evil), key=load_signing_key(node.key("mine")).public)),
    ):
        node.attach(false)
        node.forget()
        assert node.cat().encode() == EVIL, "it would be believed without a policy"
        assert node.cat(node.trusting("mine")).encode() == HELLO


def test_a_signature_of_another_image_is_not_one_of_this(node: Node) -> None:
    """Replayed as it is, with its artifact, or for the same layers below another subject."""
    node.push(EVIL_LAYER, "evil")
    evil = node.artifact(node.convert(node.image.replace(":v1", ":evil"), key="mine").json[0]["artifact"])
    honest = node.artifact(node.convert().json[0]["artifact"])
    node.attach(newest(honest._replace(signature=evil.signature)))
    node.attach(newest(evil._replace(subject=honest.subject)))
    node.forget()
    policy = f"--set={node.trusting('mine')}"
    node.user.cafs("cat", node.image, "file", policy, code=1, says="no trusted", warns="layers of its image")


def test_signing_uses_nothing_again_that_others_attached(node: Node) -> None:
    node.attach(newest(evil_artifact(node)))
    node.forget()
    done = node.convert(key="mine").json[0]
    assert done["converted_layers"] == 1
    assert node.cat(node.trusting("mine")).encode() == HELLO
    assert node.convert(key="mine").json[0]["artifact"] == done["artifact"]


def test_what_is_remembered_is_judged_by_the_policy_of_now(node: Node) -> None:
    done = node.convert().json[0]
    pinned = f"{node.registry.host}/{node.name}@{done['image']}"
    assert node.cat(image=pinned).encode() == HELLO
    assert node.cat().encode() == HELLO
    node.cat(node.trusting("mine"), image=pinned, code=1, says="not signed")
    node.cat("trusted_registries=elsewhere.example", image=pinned, code=1, says="trusted_registries")
    node.registry.fail(Status(503), path="/v2/", method=None)
    node.user.cafs("ls", pinned)  # remembered, so nobody is asked
    node.cat(node.trusting("mine"), image=pinned, code=1, says="503")
    node.cat(node.trusting("mine"), code=1, says="503")
    node.registry.heal()
    node.convert(key="mine")
    assert node.cat(node.trusting("mine"), image=pinned).encode() == HELLO


def test_of_registries_that_are_not_trusted_nothing_is_asked(node: Node) -> None:
    node.convert()
    node.forget()
    node.registry.forget()
    node.cat("trusted_registries=elsewhere.example", code=1, says="trusted_registries does not name it")
    assert node.registry.settled() == []
    assert node.cat(f"trusted_registries={node.registry.host}/trust").encode() == HELLO
