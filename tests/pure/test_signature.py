"""Signatures: what they cover, what keys are taken, and what a policy makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cafs.core.settings import Settings
from cafs.errors import CafsError, StorageError, UntrustedError, UsageError
from cafs.oci.artifact import ArtifactLayer, IndexArtifact, encode_artifact
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import LAYER_CHUNKS, LAYER_INDEX, OCI_MANIFEST
from cafs.oci.signature import (
    PublicKey,
    SigningKey,
    is_valid,
    load_public_key,
    load_signing_key,
    parse_public_key,
    statement,
)
from cafs.oci.trust import ANY, TrustedKey, TrustPolicy, fits, trust_policy
from tests.pure.test_artifact import parsed


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys as OpenSSL writes them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.pem")
        openssl("pkey", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub")
    openssl("genpkey", "-algorithm", "ed448", "-out", folder / "ed448.pem")
    openssl("pkey", "-in", folder / "ed448.pem", "-pubout", "-out", folder / "ed448.pub")
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out", folder / "rsa.pem")
    openssl("pkey", "-in", folder / "rsa.pem", "-pubout", "-out", folder / "rsa.pub")
    openssl(
        "pkey", "-in", folder / "mine.pem", "-aes256", "-passout", "pass:x", "-out", folder / "locked.pem"
    )
    (folder / "noise.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (folder / "empty.pub").write_bytes(b"")
    return folder


def digest(n: int) -> Any:
    return f"sha256:{n:064x}"


LAYER = ArtifactLayer(
    digest(1),
    digest(2),
    Descriptor(digest(3), 30, LAYER_INDEX),
    digest(4),
    40,
    "options",
    digest(5),
    Descriptor(digest(6), 60, LAYER_CHUNKS),
)
ARTIFACT = IndexArtifact(
    Descriptor(digest(9), 90, OCI_MANIFEST), (LAYER, LAYER), (Descriptor(digest(8), 80, LAYER_CHUNKS),), 3
)


def signed(artifact: IndexArtifact, key: SigningKey) -> IndexArtifact:
    return artifact._replace(signature=key.sign(artifact))


def test_openssl_agrees(keys: Path, tmp_path: Path) -> None:
    key = load_signing_key(keys / "mine.pem")
    assert load_public_key(keys / "mine.pub") == key.public == parse_public_key(str(key.public))
    (tmp_path / "statement").write_bytes(statement(ARTIFACT))
    (tmp_path / "signature").write_bytes(key.sign(ARTIFACT).value)
    openssl(
        *("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", keys / "mine.pub"),
        *("-in", tmp_path / "statement", "-sigfile", tmp_path / "signature"),
    )
    assert is_valid(signed(ARTIFACT, key))


def change_layer(**changes: Any) -> Callable[[IndexArtifact], IndexArtifact]:
    return lambda a: a._replace(layers=(a.layers[0], replace(a.layers[1], **changes)))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a._replace(subject=None),
        lambda a: a._replace(subject=replace(a.subject, digest=digest(10))),
        lambda a: a._replace(subject=replace(a.subject, size=91)),
        lambda a: a._replace(generation=4),
        lambda a: a._replace(dictionary=()),
        lambda a: a._replace(layers=a.layers[:1]),
        lambda a: a._replace(layers=(*a.layers, LAYER)),
        change_layer(layer_digest=digest(10)),
        change_layer(diff_id=digest(10)),
        change_layer(index_digest=digest(10)),
        change_layer(index_size=41),
        change_layer(options="other"),
        change_layer(parent_chain_id=None),
        change_layer(chunks=None),
        change_layer(chunks=Descriptor(digest(6), 61, LAYER_CHUNKS)),
        change_layer(index=Descriptor(digest(10), 30, LAYER_INDEX)),
    ],
)
def test_nothing_signed_can_be_changed(keys: Path, change: Callable[[IndexArtifact], IndexArtifact]) -> None:
    artifact = signed(ARTIFACT, load_signing_key(keys / "mine.pem"))
    assert not is_valid(change(artifact))


def test_a_signature_is_written_and_read(keys: Path) -> None:
    artifact = signed(ARTIFACT, load_signing_key(keys / "mine.pem"))
    found = parsed(encode_artifact(artifact))
    assert found.signature == artifact.signature
    assert is_valid(found)


def test_no_flipped_bit_of_a_signature_or_its_key_passes(keys: Path) -> None:
    artifact = signed(ARTIFACT, load_signing_key(keys / "mine.pem"))
    assert artifact.signature is not None
    key, value = artifact.signature.key.raw, artifact.signature.value
    for bit in range(0, 512, 7):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not is_valid(artifact._replace(signature=replace(artifact.signature, value=bytes(flipped))))
    for bit in range(0, 256, 5):
        other = bytearray(key)
        other[bit // 8] ^= 1 << bit % 8
        changed = replace(artifact.signature, key=PublicKey(bytes(other)))
        assert not is_valid(artifact._replace(signature=changed))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rsa.pem", "RSA"),
        ("ed448.pem", "Ed448"),
        ("locked.pem", "encrypted"),
        ("mine.pub", "public key"),
        ("noise.pem", "no private key"),
        ("empty.pub", "no private key"),
    ],
)
def test_keys_that_cannot_sign(keys: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load_signing_key(keys / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("rsa.pub", "RSA"), ("ed448.pub", "Ed448"), ("mine.pem", "-pubout"), ("empty.pub", "no public key")],
)
def test_keys_that_cannot_be_trusted(keys: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_public_key(keys / name)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        load_signing_key(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:" + "A" * 43, "A" * 43 + "="]
)
def test_texts_that_are_no_key(text: str) -> None:
    with pytest.raises(UsageError, match="no public key"):
        parse_public_key(text)


def test_one_key_has_one_text() -> None:
    assert str(parse_public_key("ed25519:" + "A" * 43 + "=")) == "ed25519:" + "A" * 43 + "="
    with pytest.raises(UsageError):
        parse_public_key("ed25519:" + "A" * 42 + "B=")  # the same bytes to a lenient decoder


@pytest.mark.parametrize(
    ("pattern", "name", "fitting"),
    [
        ("*", "docker://any/thing", True),
        ("*", "oci:/srv/images", True),
        ("reg.example", "docker://reg.example/app", True),
        ("docker://reg.example/", "docker://reg.example/app", True),
        ("reg.example", "docker://reg.example.evil/app", False),
        ("reg.example", "docker://evil/reg.example", False),
        ("reg.example/team", "docker://reg.example/team", True),
        ("reg.example/team", "docker://reg.example/teams", False),
        ("reg.example/*/app", "docker://reg.example/a/b/app", True),
        ("*.example", "docker://reg.example/app", True),
        ("reg.example", "docker://regXexample/app", False),
        ("[::1]:5000", "docker://[::1]:5000/app", True),
        ("oci:/srv", "oci:/srv/images", True),
        ("", "docker://reg.example/app", False),
    ],
)
def test_patterns(pattern: str, name: str, fitting: bool) -> None:
    assert fits(name, pattern) == fitting


def settings(**changes: Any) -> Settings:
    return Settings(cache_dir=Path("/nowhere"), run_dir=Path("/nowhere"), **changes)


def refusal(policy: TrustPolicy, name: str, artifact: IndexArtifact) -> str:
    with pytest.raises(UntrustedError) as caught:
        policy.check_signature(name, artifact)
    return str(caught.value)


def test_what_is_believed_out_of_the_box() -> None:
    policy = trust_policy(settings())
    policy.check_repository("docker://any/thing")
    assert not policy.wants_signature("docker://any/thing", is_bound=False)


def test_a_key_is_wanted_everywhere_once_there_is_one(keys: Path) -> None:
    policy = trust_policy(settings(trusted_keys=(str(keys / "mine.pub"),)))
    name, mine = "docker://reg/app", load_signing_key(keys / "mine.pem")
    assert policy.wants_signature(name, is_bound=False)
    assert not policy.wants_signature(name, is_bound=True)
    policy.check_signature(name, signed(ARTIFACT, mine))
    assert "not signed" in refusal(policy, name, ARTIFACT)
    other = load_signing_key(keys / "other.pem")
    assert str(other.public) in refusal(policy, name, signed(ARTIFACT, other))
    theirs = signed(ARTIFACT, other).signature
    assert theirs is not None
    claimed = replace(theirs, key=mine.public)
    assert "forged" in refusal(policy, name, ARTIFACT._replace(signature=claimed))
    of_another = signed(ARTIFACT._replace(subject=None), mine).signature
    assert "another artifact" in refusal(policy, name, ARTIFACT._replace(signature=of_another))


def test_keys_and_requirements_for_some_registries(keys: Path) -> None:
    mine, other = (load_signing_key(keys / f"{name}.pem") for name in ("mine", "other"))
    policy = trust_policy(
        settings(trusted_keys=(f"reg/a {mine.public}", f"reg/b {keys}/other.pub"), signed_registries=("reg",))
    )
    policy.check_signature("docker://reg/a", signed(ARTIFACT, mine))
    policy.check_signature("docker://reg/b", signed(ARTIFACT, other))
    assert "not in trusted_keys" in refusal(policy, "docker://reg/a", signed(ARTIFACT, other))
    assert "no key" in refusal(policy, "docker://reg/c", signed(ARTIFACT, mine))
    assert policy.wants_signature("docker://reg/c", is_bound=False)
    assert not policy.wants_signature("docker://elsewhere/c", is_bound=False)


def test_registries_whose_artifacts_are_not_used() -> None:
    policy = trust_policy(settings(trusted_registries=("reg/team",)))
    policy.check_repository("docker://reg/team/app")
    with pytest.raises(UntrustedError, match="trusted_registries"):
        policy.check_repository("docker://reg/other")


@pytest.mark.parametrize(
    "changes",
    [
        {"signed_registries": ("reg",)},
        {"trusted_keys": ("relative.pub",)},
        {"trusted_keys": ("/nowhere/key.pub",)},
        {"trusted_keys": ("reg ",)},
        {"trusted_keys": ("ed25519:AAAA",)},
    ],
)
def test_a_policy_that_cannot_be_kept_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(CafsError):
        trust_policy(settings(**changes))


def test_a_binding_counts_only_where_it_is_said_to() -> None:
    strict = TrustPolicy(keys=(TrustedKey(ANY, PublicKey(bytes(32))),), signed=(ANY,), binding_counts=False)
    assert strict.wants_signature("docker://reg/app", is_bound=True)
