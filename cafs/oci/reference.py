"""How images are named on the command line: as skopeo writes sources and targets.

Pure parsing; nothing here looks at the disk or the network. A bare reference means ``docker://``.
Sources: distribution/reference (grammar, docker.io defaults), containers/image (transports).
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cafs.core.digest import Digest, parse_digest
from cafs.errors import UsageError

DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset(("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"))
_MAX_TEXT = 4096
_MAX_REPOSITORY = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# containers/image, oci/internal/oci_util.go: an image name in a layout may be a whole reference.
_LAYOUT_NAME = re.compile(
    r"[A-Za-z0-9_]+(?:(?:--|[-._:@+])[A-Za-z0-9_]+)*(?:/[A-Za-z0-9_]+(?:(?:--|[-._:@+])[A-Za-z0-9_]+)*)*"
)
_PINNED_PATH = re.compile(r"(?s)(.+)@(sha256:[0-9a-f]{64})")


class Transport(StrEnum):
    """Where an image lies."""

    DOCKER = "docker"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    DIR = "dir"
    TAR = "tar"


class RegistryReference(NamedTuple):
    """An image in a registry; ``digest`` wins where both are given."""

    host: str
    repository: str
    tag: str | None
    digest: Digest | None

    @property
    def transport(self) -> Transport:
        return Transport.DOCKER

    @property
    def selector(self) -> str:
        """What ``Repository.resolve`` takes: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"docker://{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


class PathReference(NamedTuple):
    """An image, a directory or a tar on the local disk."""

    transport: Transport
    path: Path
    name: str | None = None
    """``oci:`` tag or ``docker-archive:`` reference; never for ``dir:`` and ``tar:``."""
    digest: Digest | None = None
    """``oci:DIR@sha256:…`` names a manifest by digest."""

    @property
    def selector(self) -> str:
        """What ``Repository.resolve`` takes; empty: the only image there is."""
        return self.digest or self.name or ""

    def __str__(self) -> str:
        name = f":{self.name}" if self.name else ""
        return f"{self.transport}:{self.path}{name}" + (f"@{self.digest}" if self.digest else "")


Reference = RegistryReference | PathReference


def parse_reference(text: str) -> Reference:
    """Read one SOURCE or TARGET.

    Raises:
        UsageError: it is no reference; the message says which part is wrong.
    """
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise UsageError(
            f"not an image reference: {text[:80]!r} (empty, too long, not UTF-8 or with control characters)"
        )
    prefix, colon, rest = text.partition(":")
    if prefix == Transport.DOCKER and rest.startswith("//"):
        return _parse_registry(rest[2:], text)
    if "://" in text:
        known = "docker://, oci:, oci-archive:, docker-archive:, dir:, tar:"
        raise UsageError(f"{text!r}: no such transport (known: {known})")
    if colon and prefix in {t.value for t in Transport if t is not Transport.DOCKER}:
        return _parse_path(Transport(prefix), rest, text)
    if text.startswith(("/", "./", "../", "~")):
        raise UsageError(f"{text!r} is a path: write dir:{text}, tar:{text} or oci:{text}")
    return _parse_registry(text, text)


def canonical_host(host: str) -> str:
    """One name for Docker Hub, which has many."""
    return DOCKER_HUB if host in _HUB_NAMES else host


def absolute_reference(text: str) -> str:
    """The same reference, for a process that works in another directory."""
    reference = parse_reference(text)
    if isinstance(reference, PathReference):
        reference = reference._replace(path=reference.path.absolute())
    return str(reference)


def _parse_path(transport: Transport, rest: str, text: str) -> PathReference:
    if transport in {Transport.DIR, Transport.TAR}:
        path, name, digest = rest, None, None
    else:
        rest, digest = _split_digest(rest) if transport is not Transport.DOCKER_ARCHIVE else (rest, None)
        path, colon, tail = rest.partition(":")
        name = tail if colon else None
        if name is not None and not _LAYOUT_NAME.fullmatch(name):
            raise UsageError(f"{text!r}: {name!r} is not an image name or tag")
    if not path:
        raise UsageError(f"{text!r} names no path: write {transport}:PATH")
    return PathReference(transport, Path(path), name, digest)


def _split_digest(rest: str) -> tuple[str, Digest | None]:
    pinned = _PINNED_PATH.fullmatch(rest)
    return (pinned[1], Digest(pinned[2])) if pinned else (rest, None)


def _parse_registry(name: str, text: str) -> RegistryReference:
    name, at, digest_text = name.partition("@")
    digest = parse_digest(digest_text) if at else None
    host, path = _split_host(name)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise UsageError(f"{text!r}: {tag!r} is not a tag (letters, digits, '_', '.', '-'; at most 128)")
    _check_host(host, text)
    _check_repository(path, text)
    host = canonical_host(host)
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return RegistryReference(host, path, tag if colon else None if digest else "latest", digest)


def _split_host(name: str) -> tuple[str, str]:
    """First component is a host when it looks like one; else the whole is a repository of Docker Hub."""
    first, slash, rest = name.partition("/")
    if slash and (any(c in first for c in ".:[") or first == "localhost" or first != first.lower()):
        return first, rest
    return DOCKER_HUB, name


def _check_host(host: str, text: str) -> None:
    match = _HOST.fullmatch(host)
    if not match or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise UsageError(f"{text!r}: {host!r} is not a registry host")


def _check_repository(path: str, text: str) -> None:
    if len(path) > _MAX_REPOSITORY:
        raise UsageError(f"{text[:80]!r}…: the repository name is longer than {_MAX_REPOSITORY} characters")
    for component in path.split("/"):
        if not _REPOSITORY.fullmatch(component):
            hint = " (it must be lower case)" if component != component.lower() else ""
            raise UsageError(f"{text!r}: {component!r} cannot be part of a repository name{hint}")
