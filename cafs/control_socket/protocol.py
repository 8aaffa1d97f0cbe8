"""What is said on the mount server's control socket: paths, bodies, reasons, bounds. Pure.

Used by the clients beside this module and by the mount server itself; docs/mountd.md describes it for people.
Light on purpose: neither trio nor asyncio nor HTTP is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from cafs.core.digest import Digest, parse_digest
from cafs.errors import CafsError, ProtocolError, StateError, UsageError

RUN_NAME = "mountd"
"""The mount server's run directory, below ``run_dir``, unless it is told another one."""
SOCKET_NAME = "mountd.sock"
"""In the mount server's run directory."""
LAYERS_PATH, STATUS_PATH, METRICS_PATH, CREDENTIALS_PATH = "/layers", "/status", "/metrics", "/credentials"
ANNOUNCED_PATH = "/announced"
JSON_TYPE = "application/json"
MAX_REQUEST_BYTES = 256 << 10
"""Of a request's body: credentials of a cloud registry are the longest."""
MAX_ANSWER_BYTES = 64 << 20
_MAX_IMAGE_LETTERS = 4096
_NAME_LETTERS = 64


class Reason(StrEnum):
    """Why a request failed, for machines."""

    NOT_CONVERTED = "not_converted"
    """The image has no index artifact, or none for this layer."""
    INVALID = "invalid"
    """There is one, and it is damaged, hostile or does not fit the image."""
    UNTRUSTED = "untrusted"
    """There is one, and the policy of this node does not believe it."""
    UNREACHABLE = "unreachable"
    """The registry cannot be reached, fails, or does not answer in time."""
    UNAUTHORIZED = "unauthorized"
    """The registry refuses our credentials, or wants some."""
    DISABLED = "disabled"
    """This node does not mount images of this registry lazily."""
    STORAGE = "storage"
    """The local disk cannot hold what is needed: full, read-only, no rights."""
    BAD_REQUEST = "bad_request"
    """The request is not understood; the same again fails again."""
    UNKNOWN = "unknown"
    """There is no such layer, or no such path."""
    INTERNAL = "internal"
    """A defect of the mount server; its log says more."""


STATUS_OF: Mapping[Reason, int] = {
    Reason.NOT_CONVERTED: 404,
    Reason.UNKNOWN: 404,
    Reason.UNTRUSTED: 409,
    Reason.DISABLED: 409,
    Reason.INVALID: 422,
    Reason.UNREACHABLE: 502,
    Reason.UNAUTHORIZED: 502,
    Reason.STORAGE: 507,
    Reason.BAD_REQUEST: 400,
    Reason.INTERNAL: 500,
}
"""HTTP status of each reason. 413 and 431 also come as ``BAD_REQUEST``."""


class RefusedError(CafsError):
    """The mount server answered, and its answer is no."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class AwayError(StateError):
    """No mount server answers on the socket."""


@dataclass(frozen=True, slots=True)
class AddLayer:
    """The body of ``POST /layers``."""

    image: str
    """A reference into a registry, as containerd knows the image."""
    manifest: Digest
    """Of the image's manifest for one platform, not of an image index."""
    layer: Digest
    """The layer's blob, as the manifest names it."""
    chain: Digest | None = None
    """The chainID that the layer will be committed under; the artifact must agree. None: not known."""

    def encode(self) -> bytes:
        """As it is sent."""
        return encode_json({key: value for key, value in asdict(self).items() if value is not None})


@dataclass(frozen=True, slots=True)
class AddedLayer:
    """The answer to ``POST /layers``: the layer's file is there and answers reads."""

    name: str
    """sha256 of the plain layer index in hex: the identity of a layer, for DELETE too."""
    path: str
    """Of the file, relative to the directory that FUSE is mounted at (``GET /status`` says where)."""
    virtual_bytes: int
    """Size of the file: an EROFS image."""
    data_bytes: int
    """How much of it is file content, which comes when it is read."""
    hides: bool
    """The layer has whiteouts or opaque directories, so it must not be shown without an overlay."""


def usual_socket(run_dir: Path) -> Path:
    """Where the mount server listens unless it is told something else."""
    return run_dir / RUN_NAME / SOCKET_NAME


def parse_add_layer(body: bytes) -> AddLayer:
    """Read the body of ``POST /layers``.

    Raises:
        UsageError: it is not one.
    """
    document = _parse_object(body)
    unknown = document.keys() - {"image", "manifest", "layer", "chain"}
    if unknown:
        raise UsageError(f"unknown member {sorted(unknown)[0][:40]!r}")
    image = _image(document)
    chain = _digest(document, "chain") if document.get("chain") is not None else None
    return AddLayer(image, _digest(document, "manifest"), _digest(document, "layer"), chain)


def encode_announcement(image: str) -> bytes:
    """The body of ``POST /announced``."""
    return encode_json({"image": image})


def parse_announcement(body: bytes) -> str:
    """Read the body of ``POST /announced``: the image.

    Raises:
        UsageError: it is not one.
    """
    return _image(_parse_object(body))


def parse_added_layer(document: Mapping[str, Any]) -> AddedLayer:
    """Read the answer; members that this version does not know are passed over.

    Raises:
        ProtocolError: it is none.
    """
    try:
        known = {field: document[field] for field in AddedLayer.__slots__}
    except KeyError as e:
        raise ProtocolError(f"the mount server's answer lacks {e}") from e
    return AddedLayer(**known)


def layer_path(name: str) -> str:
    """The path that DELETE takes."""
    return f"{LAYERS_PATH}/{quote(name, safe='')}"


def is_layer_name(name: str) -> bool:
    """Whether this can be a layer's name at all."""
    return len(name) == _NAME_LETTERS and all(letter in "0123456789abcdef" for letter in name)


def encode_json(document: Any) -> bytes:
    """A body."""
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def encode_failure(reason: Reason, message: str) -> bytes:
    """The body of every answer that is no success."""
    return encode_json({"error": " ".join(message.split()), "reason": reason})


def raise_failure(status: int, body: bytes) -> NoReturn:
    """For an answer that is no success.

    Raises:
        RefusedError: always.
    """
    try:
        document = json.loads(body)
        message, reason = str(document["error"]), Reason(document["reason"])
    except (ValueError, KeyError, TypeError):
        message, reason = f"the mount server answered {status}", Reason.INTERNAL
    raise RefusedError(message, reason)


def parse_answer(body: bytes) -> dict[str, Any]:
    """The document in an answer.

    Raises:
        ProtocolError: it is no JSON object.
    """
    try:
        return _parse_object(body)
    except UsageError as e:
        raise ProtocolError(f"the mount server's answer: {e}") from e


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise UsageError("the body is not JSON") from e
    if not isinstance(document, dict):
        raise UsageError("the body is no JSON object")
    return document


def _image(document: Mapping[str, Any]) -> str:
    image = document.get("image")
    if not isinstance(image, str) or not 0 < len(image) <= _MAX_IMAGE_LETTERS:
        raise UsageError("'image' must be an image reference")
    return image


def _digest(document: Mapping[str, Any], member: str) -> Digest:
    value = document.get(member)
    if not isinstance(value, str):
        raise UsageError(f"{member!r} must be a digest")
    return parse_digest(value)
