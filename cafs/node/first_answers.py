"""The first server of a new mount: what is asked right after mounting, before trio is loaded.

Forked by the supervisor (``keeper``) as soon as FUSE is mounted. It opens the image if all of it that a mount
needs is on this machine, says so to the waiting command, and answers what the indexes alone can answer:
names, attributes, directories, and the metadata that the kernel's EROFS reads. Meanwhile the supervisor
loads a whole server, which then takes over as from one that was killed. Whatever goes wrong here, or
cannot be done, is left to that server, which also has the words for it.

Must stay light: no trio, no chunk store, no HTTP.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from cafs.errors import CafsError
from cafs.fuse.first_session import answer_from_memory
from cafs.fuse.supervisor import Turn
from cafs.fuse.tree import Buffer, FileTree
from cafs.index.layer_index import LayerIndex
from cafs.node.mount_state import MountDirectory, MountRequest
from cafs.node.opening import ReadyImage, open_layers_here
from cafs.node.served_tree import served_tree

log = logging.getLogger(__name__)


def give_first_answers(
    directory: MountDirectory, turn: Turn, announce: Callable[[dict[str, Any]], None], checkers: socket.socket
) -> int:
    """Serve what can be, then wait to be killed. Runs in a forked process.

    Args:
        directory: State of the mount.
        turn: The descriptor.
        announce: Told about the image before the first request is answered.
        checkers: End of a channel for the process that will check indexes, if they have to be fetched.

    Returns:
        An exit status of no meaning, when nothing could be opened.
    """
    request = directory.read_request()
    try:
        image = open_layers_here(directory, request)
    except CafsError as e:
        log.debug("no first answers: %s", e)
        from cafs.node.check_fork import fork_checker  # noqa: PLC0415 - only then

        fork_checker(checkers)
        return 1
    tree = _tree(request, image)
    announce(image.announcement())
    try:
        answer_from_memory(turn.descriptor, tree, turn.outstanding)
    except Exception as e:
        log.debug("the first answers end early: %r", e)
    # Ending would change nothing. Requests wait in the kernel for the next server.
    while True:
        signal.pause()


class MetadataImage:
    """A layer's virtual image without its data. A ``VirtualImage``."""

    def __init__(self, index: LayerIndex) -> None:
        self.virtual_bytes = index.virtual_bytes
        self.about = ""
        self._metadata = index.metadata

    def try_read(self, offset: int, size: int) -> Sequence[Buffer] | None:
        """The bytes if all of them are metadata."""
        if offset < 0 or offset + size > len(self._metadata):
            return None
        return (self._metadata[offset : offset + size],)

    async def read(self, offset: int, size: int) -> Sequence[Buffer]:
        """Never called: who would have to wait is left to the next server."""
        raise NotImplementedError


def _tree(request: MountRequest, image: ReadyImage) -> FileTree:
    return served_tree(request.driver, image, [MetadataImage(layer.index) for layer in image.layers])
