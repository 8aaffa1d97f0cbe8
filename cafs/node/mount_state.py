"""What is written down about a mount, so that any later process of it, and ``umount``, can go on.

Owns the layout of ``run_dir/<id>/`` (0700). Everything there belongs to one mount and goes with it:

========================= ==============================================================
``lock``                  flock held by the supervisor (and its server) while the mount lives
``mount.json``            ``MountRequest``: what the user asked for
``image.json``            ``MountedImage``: what was opened; written once, by the first server
``supervisor.pid`` ...    ``server.pid``: process ids, for people and tests
``log``                   log of supervisor and servers
``stats.json``            counters of the chunk service
``failures.jsonl``        journal for ``cafs explain``
``fuse/``                 the inner mount of the driver ``erofs``
========================= ==============================================================

The id comes from the mount point, so that a mount point has one mount at most.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cafs.core.settings import Kind, Settings
from cafs.errors import CafsError, NotFoundError, StateError

log = logging.getLogger(__name__)

ID_DIGITS = 12
EROFS_FILE = "image"
"""Name of the one file that the driver ``erofs`` serves, and the kernel mounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """What the user asked for, with everything decided that was left open."""

    source: str
    target: Path
    driver: str
    """``erofs`` or ``fuse``."""
    platform: str | None
    prefetch: str
    record: Path | None
    trusted: bool
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedLayer:
    """One layer as the first server opened it."""

    index: Path
    layer_digest: str
    diff_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedImage:
    """What a later server needs to serve the same image, without asking anybody."""

    name: str
    manifest_digest: str
    layers: tuple[MountedLayer, ...]
    """Lowest first."""
    merged: Path | None = None
    """The merged index; None where the one layer is mounted itself, or user space merges."""


class MountDirectory:
    """Paths of one mount's state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.log = path / "log"
        self.stats = path / "stats.json"
        self.fuse = path / "fuse"
        self.erofs_file = self.fuse / "layers" / EROFS_FILE
        self.supervisor_pid = path / "supervisor.pid"
        self.server_pid = path / "server.pid"
        self._request = path / "mount.json"
        self._image = path / "image.json"

    @classmethod
    def of(cls, run_dir: Path, target: Path) -> MountDirectory:
        """Where the state of the mount at ``target`` (absolute, resolved) is kept."""
        digest = hashlib.sha256(os.fsencode(target)).hexdigest()
        return cls(run_dir / digest[:ID_DIGITS])

    @classmethod
    def all(cls, run_dir: Path) -> list[MountDirectory]:
        """Every mount that has state in ``run_dir``."""
        return [cls(path.parent) for path in sorted(run_dir.glob("*/mount.json"))]

    def fuse_target(self, request: MountRequest) -> Path:
        """Where FUSE itself is mounted."""
        return self.fuse if request.driver == "erofs" else request.target

    def indexes(self, settings: Settings) -> Path:
        """Where the mount keeps its own names of the layer indexes: in the cache, for hard links."""
        return settings.cache_dir / "mounted" / self.path.name

    def write_request(self, request: MountRequest) -> None:
        """Written before anything is mounted."""
        write_json(self._request, asdict(request))

    def read_request(self) -> MountRequest:
        """
        Raises:
            NotFoundError: no mount has its state here.
            StateError: it is damaged.
        """
        document = read_json(self._request)
        try:
            document["settings"] = settings_from_json(document["settings"])
            document["target"] = Path(document["target"])
            document["record"] = Path(document["record"]) if document["record"] else None
            return MountRequest(**_known(MountRequest, document))
        except (TypeError, KeyError) as e:
            raise StateError(f"{self._request} is damaged: {e}") from e

    def write_image(self, image: MountedImage) -> None:
        """Written by the first server when it begins to serve."""
        write_json(self._image, asdict(image))

    def read_image(self) -> MountedImage | None:
        """None until a server has begun to serve.

        Raises:
            StateError: it is damaged.
        """
        try:
            document = read_json(self._image)
        except NotFoundError:
            return None
        try:
            layers = [_mounted_layer(layer) for layer in document["layers"]]
            document["merged"] = Path(document["merged"]) if document["merged"] else None
            return MountedImage(**{**_known(MountedImage, document), "layers": tuple(layers)})
        except (TypeError, KeyError) as e:
            raise StateError(f"{self._image} is damaged: {e}") from e

    def remove(self) -> None:
        """Forget the mount. Nothing may be mounted below any more."""
        with contextlib.suppress(CafsError):  # never begun, or damaged: then its links stay
            remove_tree(self.indexes(self.read_request().settings))
        remove_tree(self.path)

    def try_lock(self, *, create: bool = False) -> int | None:
        """The lock's descriptor, or None while a supervisor or server of this mount lives.

        Raises:
            FileNotFoundError: there is no such mount, and ``create`` is not wanted.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(self.lock, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def _mounted_layer(document: dict[str, Any]) -> MountedLayer:
    return MountedLayer(**{**_known(MountedLayer, document), "index": Path(document["index"])})


def _known(kind: type[Any], document: dict[str, Any]) -> dict[str, Any]:
    """What of a record we know: another version of CAFS may have written more into it."""
    return {field.name: document[field.name] for field in fields(kind) if field.name in document}


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, if it is there, as far as that can be done."""
    if path.exists():
        import shutil  # noqa: PLC0415 - slow to load, and beginning mounts have nothing to remove

        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document whole."""
    _write_whole(path, json.dumps(document, indent=1, default=str))


def write_pid(path: Path, pid: int) -> None:
    """Write a process id whole; on a full disk over the one that is there, which has the same length.

    It is for people and for ending a mount, and never worth losing one: failure is logged.
    """
    text = f"{pid:<10}\n"
    try:
        _write_whole(path, text)
    except OSError as e:
        try:
            with path.open("r+") as file:
                file.write(text)
        except OSError:
            log.warning("cannot write %s: %s", path, e.strerror)


def _write_whole(path: Path, text: str) -> None:
    """Beside and renamed, so that nobody reads half of it."""
    beside = _beside(path)
    beside.write_text(text)
    beside.rename(path)


def remove_written(path: Path) -> None:
    """Remove such a document, also one whose writer ended while it wrote."""
    for one in (path, _beside(path)):
        one.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_suffix(".new")


def read_json(path: Path) -> dict[str, Any]:
    """A document that ``write_json`` wrote.

    Raises:
        NotFoundError, StateError: it is missing, or damaged.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as e:
        raise NotFoundError(f"no mount has its state in {path.parent}") from e
    except ValueError as e:
        raise StateError(f"{path} is damaged: {e}") from e
    if not isinstance(document, dict):
        raise StateError(f"{path} is damaged: no object")
    return document


def settings_from_json(document: dict[str, Any]) -> Settings:
    """From ``asdict(settings)`` as ``write_json`` writes it, also as another version of CAFS wrote it.

    A mount outlives an upgrade, and a step back: what that version did not know is as by default, and what
    only it knew is nothing to us.

    Raises:
        StateError: it lacks what has no default.
    """
    values = {}
    for setting in fields(Settings):
        if setting.name not in document:
            if setting.default is MISSING:
                raise StateError(f"the state of a mount is damaged: it does not say {setting.name}")
            continue
        value, kind = document[setting.name], setting.metadata["kind"]
        if kind is Kind.PATH:
            value = Path(value)
        elif kind is Kind.NAMES:
            value = tuple(value)
        values[setting.name] = value
    return Settings(**values)
