"""Ed25519 signatures of index artifacts: what is signed, and keys as files and as text.

``cafs.oci.trust`` decides whose signatures are wanted. The statement is written out in docs/formats.md; it
covers all of an artifact that anybody reads but the signature itself. ``cryptography`` is imported only
when something is signed or checked: most commands do neither.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafs.errors import StorageError, UsageError

if TYPE_CHECKING:
    from cafs.oci.artifact import ArtifactLayer, IndexArtifact
    from cafs.oci.descriptor import Descriptor

PREFIX = b"cafs artifact signature v1\n"
"""So that no signature made for something else, with the same key, is one of ours."""
_SCHEME = "ed25519:"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_MAX_FILE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key, 32 raw bytes."""

    raw: bytes

    def __str__(self) -> str:
        return _SCHEME + base64.b64encode(self.raw).decode()


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the key that is said to have made it. Says nothing until ``is_valid``."""

    key: PublicKey
    value: bytes


class SigningKey:
    """A private key."""

    def __init__(self, key: Any) -> None:
        self._key = key  # Any: the library is not imported here
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def sign(self, artifact: IndexArtifact) -> Signature:
        """Deterministic, as Ed25519 is."""
        return Signature(self.public, self._key.sign(statement(artifact)))


def statement(artifact: IndexArtifact) -> bytes:
    """What is signed: one JSON document without choices, behind ``PREFIX``."""
    value = {
        "dictionary": [_pointer(blob) for blob in artifact.dictionary],
        "generation": artifact.generation,
        "layers": [_layer(layer) for layer in artifact.layers],
        "subject": [subject.media_type, *_pointer(subject)] if (subject := artifact.subject) else None,
    }
    return PREFIX + json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode()


def _layer(layer: ArtifactLayer) -> dict[str, Any]:
    return {
        "chunks": _pointer(layer.chunks) if layer.chunks else None,
        "diffID": layer.diff_id,
        "digest": layer.layer_digest,
        "index": [layer.index_digest, layer.index_size],
        "options": layer.options,
        "parentChainID": layer.parent_chain_id,
        "storedIndex": _pointer(layer.index),
    }


def _pointer(blob: Descriptor) -> list[Any]:
    return [blob.digest, blob.size]


def is_valid(artifact: IndexArtifact) -> bool:
    """Whether the artifact's signature is by the key it names."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    if (signature := artifact.signature) is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(signature.key.raw).verify(signature.value, statement(artifact))
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_signature(key: str, value: str) -> Signature:
    """Read what the annotations of an artifact hold.

    Raises:
        UsageError: neither a key nor a signature has this form.
    """
    raw = _decoded(value)
    if raw is None or len(raw) != _SIGNATURE_BYTES:
        raise UsageError(f"no Ed25519 signature: {value[:80]!r}")
    return Signature(parse_public_key(key), raw)


def encode_value(signature: Signature) -> str:
    """The signature's bytes as text; its key is text by ``str``."""
    return base64.b64encode(signature.value).decode()


def parse_public_key(text: str) -> PublicKey:
    """Read ``ed25519:BASE64``.

    Raises:
        UsageError: it has another form.
    """
    raw = _decoded(text.removeprefix(_SCHEME)) if text.startswith(_SCHEME) else None
    if raw is None or len(raw) != _KEY_BYTES:
        raise UsageError(f"no public key: {text[:80]!r} (expected {_SCHEME} and 32 bytes in base64)")
    return PublicKey(raw)


def _decoded(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # One text for one key: the last letter has bits that no decoder looks at.
    return raw if base64.b64encode(raw).decode() == text else None


def load_public_key(path: Path) -> PublicKey:
    """Read a PEM file as ``openssl pkey -pubout`` writes it.

    Raises:
        UsageError: it holds something else.
        StorageError: it cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    content = _read(path)
    if b"PRIVATE KEY-----" in content:
        raise UsageError(
            f"{path} holds a private key; make its public half with: openssl pkey -in {path} -pubout"
        )
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise UsageError(f"{path} is no public key in PEM") from e
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} holds no Ed25519 key but another kind: {_kind(key)}")
    return PublicKey(key.public_bytes_raw())


def load_signing_key(path: Path) -> SigningKey:
    """Read a PEM file as ``openssl genpkey -algorithm ed25519`` writes it.

    Raises:
        UsageError: it holds something else, or is encrypted.
        StorageError: it cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    content = _read(path)
    if b"PUBLIC KEY-----" in content:
        raise UsageError(f"{path} holds a public key; to sign takes the private one")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as e:
        raise UsageError(f"{path} is encrypted: give a key without a passphrase") from e
    except (ValueError, UnsupportedAlgorithm) as e:
        raise UsageError(f"{path} is no private key in PEM") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} holds no Ed25519 key but another kind: {_kind(key)}")
    return SigningKey(key)


def _kind(key: object) -> str:
    return type(key).__name__.strip("_").removesuffix("PublicKey").removesuffix("PrivateKey") or "unknown"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as e:
        raise StorageError(f"cannot read the key {path}: {e.strerror}") from e
