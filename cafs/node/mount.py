"""Mounting an image: what ``cafs mount`` does around the mount's own processes.

The command checks the mount point, takes the mount's state directory, lets the forked ``keeper`` mount and
waits for the first server's word. With the driver ``erofs`` it then mounts the kernel's EROFS on the
served file; it does that itself because no process that serves FUSE may touch its own mount. Until it
has said that all is done, its death undoes everything.

Must stay light: no trio, no HTTP, nothing of the chunk store is imported here.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafs import errors
from cafs.errors import CafsError, IntegrityError, NotFoundError, StateError, StorageError, UsageError
from cafs.fuse.device import is_mount_point, raise_readahead
from cafs.fuse.erofs_mount import can_mount_erofs, mount_image_file
from cafs.node.mount_state import MountDirectory, MountRequest, remove_tree
from cafs.node.prefork import Keeper
from cafs.node.take_down import take_down

log = logging.getLogger(__name__)

TREE_READAHEAD_KB = 256
"""Of the driver ``fuse``. Reading in a row gains half again over the kernel's 128 KiB and would gain more
from 1024, but a page fault of a program reads as much around it, and these bytes are fetched."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that is ready to be used."""

    directory: MountDirectory
    driver: str
    image: str
    layers: tuple[str, ...]


def choose_driver(wanted: str) -> str:
    """``auto`` is ``erofs`` where the kernel can and we may, as far as that is known before, else ``fuse``.

    Raises:
        UsageError: ``erofs`` was asked for and cannot be.
    """
    can = can_mount_erofs()
    if wanted == "erofs" and not can:
        raise UsageError("--driver erofs needs root and a kernel with EROFS: use --driver fuse")
    return "erofs" if can and wanted == "auto" else "fuse" if wanted == "auto" else wanted


def check_target(target: Path) -> None:
    """Refuse a mount point that cannot be one.

    Raises:
        UsageError: it is missing, no directory, or not empty.
        StateError: something is mounted there.
    """
    if is_mount_point(target):
        raise StateError(f"{target} is in use: something is mounted there already")
    try:
        if next(target.iterdir(), None) is not None:
            raise UsageError(f"{target} is not empty: an image is mounted at an empty directory")
    except FileNotFoundError as e:
        raise UsageError(f"{target} does not exist: make the directory first") from e
    except NotADirectoryError as e:
        raise UsageError(f"{target} is no directory") from e
    except PermissionError as e:
        raise UsageError(f"{target} cannot be read: {e.strerror}") from e


def mount_image(request: MountRequest, keeper: Keeper, *, foreground: bool) -> Mounted:
    """Mount; returns when the tree can be used.

    Args:
        request: What to mount; ``target`` absolute and resolved, ``driver`` chosen.
        keeper: The process that will keep it.
        foreground: It logs to standard error and stays in the terminal's process group.

    Raises:
        CafsError: it cannot be; nothing is left mounted or written.
    """
    check_target(request.target)
    recorded = _layers_recorded(request.record) if request.record is not None else None
    directory, lock = _claim_directory(request)
    try:
        keeper.begin(str(directory.path), lock, foreground=foreground)
        os.close(lock)
        return _finish(directory, request, keeper, recorded)
    except BaseException:
        # Closing our end tells the keeper to undo everything; what it left when it died, we do.
        keeper.channel.close()
        keeper.wait()
        with suppress(CafsError, OSError):
            take_down(directory, lazy=True)
        directory.remove()
        raise


def unmount_on_signals(keeper: Keeper) -> None:
    """From now on SIGTERM and SIGINT unmount."""

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(keeper.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)


def list_mounts(run_dir: Path) -> list[tuple[MountRequest, bool]]:
    """The mounts of this user that have state, and whether each is (still) mounted where we are."""
    found = []
    for directory in MountDirectory.all(run_dir):
        try:
            request = directory.read_request()
        except NotFoundError:
            continue
        except StateError as e:
            log.warning("%s", e)
        else:
            found.append((request, is_mount_point(request.target)))
    return found


def _claim_directory(request: MountRequest) -> tuple[MountDirectory, int]:
    """The mount's state directory, fresh, and its lock."""
    directory = MountDirectory.of(request.settings.run_dir, request.target)
    try:
        request.settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.path.mkdir(mode=0o700, exist_ok=True)
        lock = directory.try_lock(create=True)
        if lock is None:
            raise StateError(
                f"{request.target} is in use: another mount of it is starting or ending"
                f" (if it was unmounted without cafs: cafs umount {request.target})"
            )
        clear_leftovers(directory)
        directory.fuse.mkdir(mode=0o700)
        directory.write_request(request)
    except OSError as e:
        raise StorageError(
            f"cannot write the mount's state: {e.strerror}: {e.filename}"
            " (run_dir has to be writable, with room)"
        ) from e
    return directory, lock


def clear_leftovers(directory: MountDirectory) -> None:
    """Remove what processes that were all killed at once left behind. The lock must be held."""
    take_down(directory, lazy=True)
    for path in directory.path.iterdir():
        if path == directory.lock:
            continue
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink()


def _layers_recorded(path: Path) -> tuple[str, ...] | None:
    """The layers of the profile that a recording is to continue; None if it is to begin.

    Raises:
        UsageError: the file is there and is no profile.
        StorageError: it cannot be read or written.
    """
    from cafs.core.profile import parse_profile  # noqa: PLC0415  few mounts are recorded

    if not os.access(path.parent, os.W_OK | os.X_OK):
        why = "the directory cannot be written to" if path.parent.is_dir() else "there is no such directory"
        raise StorageError(f"{path} cannot be written: {why}")
    try:
        return parse_profile(path.read_bytes()).layers
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StorageError(f"{path}: {e.strerror}") from e
    except IntegrityError as e:
        raise UsageError(f"{path} is there and is not an access profile: {e}") from e


def _finish(
    directory: MountDirectory, request: MountRequest, keeper: Keeper, recorded: tuple[str, ...] | None
) -> Mounted:
    """Wait for the first server's word, then do what only this process can."""
    message = _receive(keeper.channel)
    if "error" in message:
        raise _as_error(message)
    if recorded not in {None, tuple(dict.fromkeys(message["layers"]))}:
        raise UsageError(f"{request.record} is there and is the access profile of another image")
    if request.driver == "erofs":
        file, cold = directory.erofs_file, message["cold"]
        mount_image_file(file, request.target, trusted=request.trusted, cold=cold)
    else:
        with suppress(StorageError):  # only root may; slower, not wrong
            raise_readahead(request.target, TREE_READAHEAD_KB)
    keeper.channel.sendall(b"+")
    return Mounted(directory, request.driver, message["image"], tuple(message["layers"]))


def _receive(channel: socket.socket) -> dict[str, Any]:
    with channel.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        return {"error": "the mount server ended before it could serve", "kind": "StateError"}
    message: dict[str, Any] = json.loads(line)
    return message


def _as_error(message: dict[str, Any]) -> CafsError:
    kind = getattr(errors, message["kind"], None)
    if isinstance(kind, type) and issubclass(kind, CafsError):
        return kind(message["error"])
    return StateError(f"the mount server failed: {message['kind']}: {message['error']}")
