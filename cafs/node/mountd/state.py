"""What the mount server writes down, so that any later process of it means the same. Owns the run directory.

Everything there (0700) belongs to one FUSE session and goes with it:

========================= ==============================================================
``lock``                  flock held by the supervisor and its server
``mountd.sock``           the control socket
``mountd.json``           ``MountdRequest``: how the server was started
``session.json``          what was agreed with the kernel, and the highest node id given away
``layers/NAME.json``      ``LayerRecord``: one layer, written before it is shown
``supervisor.pid`` ...    ``server.pid``: process ids, for people and ``--stop``
``stats.json``            counters of the chunk service
``failures.jsonl``        journal for ``cafs explain``
``fuse/``                 where FUSE is mounted
========================= ==============================================================

The indexes of layers are kept in the cache, under hard links of the run directory's own, so that cleaning the
cache does not take them away. Synchronous; the server calls it from one worker thread at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cafs.control_socket.protocol import SOCKET_NAME
from cafs.core.digest import Digest
from cafs.core.settings import Settings
from cafs.errors import CafsError, StorageError
from cafs.fetch.journal import FILE_NAME
from cafs.fuse.flat import FIRST_LAYER_NODE
from cafs.node.mount_state import read_json, remove_written, settings_from_json, write_json

log = logging.getLogger(__name__)

_NODES_AT_ONCE = 64
"""Node ids are given away in blocks, so that not every layer costs a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountdRequest:
    """How the server was started."""

    prefetch: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image that a layer was asked for with: a place to fetch it from."""

    image: str
    """A reference into a registry."""
    manifest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """What a later server needs to serve the same layer without asking anybody."""

    name: str
    node: int
    layer: Digest
    diff_id: Digest
    images: tuple[ImageName, ...]
    """In the order in which they asked for it."""
    hidden: bool = False
    """It was taken away while somebody might still read it."""
    unclaimed: bool = False
    """It is shown because a pull was announced, and nobody has asked for it yet."""


class RunDirectory:
    """Paths and records of one mount server."""

    def __init__(self, path: Path) -> None:
        """``path`` is absolute and resolved: nothing may ask the mount below it where it really is."""
        self.path = path
        self.lock = path / "lock"
        self.socket = path / SOCKET_NAME
        self.fuse = path / "fuse"
        self.stats = path / "stats.json"
        self.journal = path / FILE_NAME
        self.supervisor_pid = path / "supervisor.pid"
        self.server_pid = path / "server.pid"
        self._request = path / "mountd.json"
        self._session = path / "session.json"
        self._layers = path / "layers"

    def try_lock(self) -> int | None:
        """The lock's descriptor, or None while another mount server uses this directory.

        Raises:
            StorageError: the directory cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StorageError(f"cannot use {self.path}: {e.strerror}") from e
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def write_request(self, request: MountdRequest) -> None:
        """At each start: newer options count. A session that goes on takes its indexes to another cache.

        Raises:
            OSError: the disk refuses; then nothing has changed.
        """
        before, after = self._indexes_now(), self._indexes_in(request.settings)
        if before is None or before == after:
            write_json(self._request, asdict(request))
            return
        try:
            _copy_files(before, after)
            write_json(self._request, asdict(request))
        except OSError:
            shutil.rmtree(after, ignore_errors=True)
            raise
        shutil.rmtree(before, ignore_errors=True)

    def read_request(self) -> MountdRequest:
        """
        Raises:
            NotFoundError: no mount server was started here.
        """
        document = read_json(self._request)
        return MountdRequest(prefetch=document["prefetch"], settings=settings_from_json(document["settings"]))

    def begin_session(self, *, can_resend: bool) -> None:
        """A FUSE session begins: nothing of an earlier one counts any more."""
        self.forget_session()
        self._layers.mkdir(mode=0o700)
        write_json(self._session, {"can_resend": can_resend, "nodes": FIRST_LAYER_NODE})

    def session_can_resend(self) -> bool:
        """
        Raises:
            NotFoundError: there is no session.
        """
        return bool(read_json(self._session)["can_resend"])

    def reserve_nodes(self) -> range:
        """Node ids that were never given away in this session, and now are."""
        session = read_json(self._session)
        first = int(session["nodes"])
        write_json(self._session, {**session, "nodes": first + _NODES_AT_ONCE})
        return range(first, first + _NODES_AT_ONCE)

    def write_layer(self, record: LayerRecord, index: Path | None) -> None:
        """Keep a layer.

        Args:
            record: What to write.
            index: The index in the cache; None: it is linked already.

        Raises:
            StorageError: the disk refuses; then nothing of a new layer is left.
        """
        try:
            if index is not None:
                link = self.index_of(record.name)
                link.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.link(index, link)
            write_json(self._layers / f"{record.name}.json", _layer_to_json(record))
        except OSError as e:
            if index is not None:
                with suppress(OSError):
                    self.remove_layer(record.name)
            raise StorageError(f"cannot write the layer's state: {e.strerror}: {e.filename}") from e

    def remove_layer(self, name: str) -> None:
        """Forget a layer."""
        (self._layers / f"{name}.json").unlink(missing_ok=True)
        self.index_of(name).unlink(missing_ok=True)

    def read_layers(self) -> list[LayerRecord]:
        """All layers of the session. One whose record is damaged is passed over with an error in the log."""
        records = []
        for path in sorted(self._layers.glob("*.json")):
            try:
                records.append(_layer_from_json(json.loads(path.read_text())))
            except (OSError, ValueError, KeyError, TypeError):
                log.exception("the record of a layer is damaged: %s", path)
        return records

    def index_of(self, name: str) -> Path:
        """The index of a layer that was written down."""
        return self._indexes() / f"{name}.index"

    def forget_session(self) -> None:
        """Remove what belongs to a session, not the directory itself. Nothing may be mounted any more."""
        with suppress(CafsError):
            shutil.rmtree(self._indexes(), ignore_errors=True)
        shutil.rmtree(self._layers, ignore_errors=True)
        for path in (self._session, self.stats, self.server_pid, self.supervisor_pid):
            remove_written(path)

    def _indexes(self) -> Path:
        return self._indexes_in(self.read_request().settings)

    def _indexes_in(self, settings: Settings) -> Path:
        """In the cache, since hard links do not leave their filesystem."""
        own = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return settings.cache_dir / "mounted" / f"mountd-{own}"

    def _indexes_now(self) -> Path | None:
        """Those of the session that is written down; None: there are none."""
        with suppress(CafsError):
            indexes = self._indexes()
            if indexes.is_dir():
                return indexes
        return None


def _copy_files(before: Path, after: Path) -> None:
    after.mkdir(parents=True, exist_ok=True)
    for file in before.iterdir():
        shutil.copyfile(file, after / file.name)


def _layer_to_json(record: LayerRecord) -> dict[str, Any]:
    """Without what says nothing, so that the server of an older version reads it after a step back."""
    document = asdict(record)
    return document if record.unclaimed else {k: v for k, v in document.items() if k != "unclaimed"}


def _layer_from_json(document: dict[str, Any]) -> LayerRecord:
    images = tuple(ImageName(**image) for image in document["images"])
    return LayerRecord(**{**document, "images": images})
