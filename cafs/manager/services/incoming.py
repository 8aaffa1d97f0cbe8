"""What services send, checked: nothing malformed gets further. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from cafs.core.host_address import parse_address
from cafs.core.learning import MAX_NAME_BYTES, parse_bounded
from cafs.core.profile import Profile
from cafs.errors import IntegrityError, ProtocolError
from cafs.manager.clusters.placing import Place
from cafs.proto import manager_pb2

PROTOCOL_VERSION = 1
_ID = re.compile(r"[0-9a-f]{32}")
_TEXT_BYTES, _REFUSED_BYTES, _LOCATION_PARTS = 255, 1000, 5
_MOST_NUMBER = (1 << 31) - 1
_MOST_BYTES = 1 << 50
_HASH_BYTES = 32


class Kind(StrEnum):
    """Of a service."""

    SCHEDULER = "scheduler"
    SEED = "seed"
    PEER = "peer"
    PROXY = "proxy"

    @property
    def cluster_kind(self) -> str:
        """Of the clusters that it may belong to."""
        return "seed" if self is Kind.SEED else "scheduler"


_KINDS = {
    manager_pb2.SCHEDULER: Kind.SCHEDULER,
    manager_pb2.SEED: Kind.SEED,
    manager_pb2.PEER: Kind.PEER,
    manager_pb2.PROXY: Kind.PROXY,
}


@dataclass(frozen=True, slots=True)
class Runs:
    """Which configuration holds in a service."""

    cluster_id: int = 0
    version: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A service, by its own words."""

    host_id: str
    kind: Kind
    address: str
    idc: str
    location: str
    cafs_version: str
    place: Place
    runs: Runs


def parse_hello(message: manager_pb2.FromService) -> Arrival:
    """The first message of a stream.

    Raises:
        ProtocolError: it is something else, or malformed.
    """
    if message.WhichOneof("message") != "hello":
        raise ProtocolError("the first message must be Hello")
    hello = message.hello
    if hello.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {hello.protocol_version}: this manager speaks 1")
    kind = _KINDS.get(hello.kind)
    if kind is None:
        raise ProtocolError("kind: no such one")
    host_id = parse_host_id(hello.host_id)
    address = parse_address(hello.address)
    location = tuple(part for part in _text(hello.location, "location").split("|") if part)
    return Arrival(
        host_id=host_id,
        kind=kind,
        address=address,
        idc=_text(hello.idc, "idc"),
        location="|".join(location[:_LOCATION_PARTS]),
        cafs_version=_text(hello.version, "version"),
        place=Place(
            address=ipaddress.ip_address(address.rpartition(":")[0].strip("[]")),
            hostname=_text(hello.hostname, "hostname"),
            idc=hello.idc,
            location=location[:_LOCATION_PARTS],
        ),
        runs=parse_running(hello.running),
    )


def parse_host_id(text: str) -> str:
    """A host id.

    Raises:
        ProtocolError: it is none.
    """
    if not _ID.fullmatch(text):
        raise ProtocolError("host_id: expected 32 hex digits")
    return text


def parse_running(running: manager_pb2.Running) -> Runs:
    """What a service says that it runs.

    Raises:
        ProtocolError: it is malformed.
    """
    if max(running.cluster_id, running.version) > _MOST_NUMBER:
        raise ProtocolError("running: no such numbers")
    return Runs(running.cluster_id, running.version, _text(running.refused, "refused", _REFUSED_BYTES))


@dataclass(frozen=True, slots=True)
class Report:
    """One start of an image."""

    image: bytes
    """SHA-256 of its manifest."""
    name: str
    frame_bytes: int
    start: Profile


def parse_report(message: manager_pb2.StartReport) -> Report:
    """What a peer tells of a start.

    Raises:
        ProtocolError: it is malformed.
    """
    try:
        start = parse_bounded(message.profile)
    except IntegrityError as e:
        raise ProtocolError(f"start_report: {e}") from None
    name = _text(message.name, "name", MAX_NAME_BYTES)
    return Report(parse_image(message.image), name, min(message.frame_bytes, _MOST_BYTES), start)


def parse_image(image: bytes, *, may_lack: bool = False) -> bytes:
    """A SHA-256.

    Raises:
        ProtocolError: it is none.
    """
    if len(image) != _HASH_BYTES and (image or not may_lack):
        raise ProtocolError("a SHA-256 of 32 bytes was expected")
    return image


def _text(text: str, name: str, most: int = _TEXT_BYTES) -> str:
    if len(text.encode()) > most or not text.isprintable():
        raise ProtocolError(f"{name}: longer than {most} bytes, or not printable")
    return text
