"""What a session needs of a tree, and the errors every tree may raise.

A node id is an integer that means the same file in every server process of a mount, so that a new
server can go on with requests that were sent to the one before it. The root is ``abi.ROOT_ID``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cafs.fuse.replies import Listing

Buffer = bytes | memoryview


class FileTree(Protocol):
    """A read-only tree. All calls but ``read`` answer from memory or from mapped files, at once.

    Called from the trio thread only, concurrently through ``read``. Each may raise any ``CafsError``
    (``NotFoundError`` for a node that does not exist); after a failure the tree stays usable.
    """

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        """The encoded entry (``replies.encode_entry``) of ``name`` in ``parent``, None without one."""
        ...

    def attributes(self, node: int) -> bytes:
        """The encoded ``fuse_attr`` of ``node``."""
        ...

    def symlink_target(self, node: int) -> bytes:
        """Where the symlink ``node`` points."""
        ...

    def listing(self, node: int) -> Listing:
        """Everything in the directory ``node``, the same order every time and in every process."""
        ...

    def xattr(self, node: int, name: bytes) -> bytes | None:
        """The value of one extended attribute, None without it."""
        ...

    def xattr_names(self, node: int) -> Sequence[bytes]:
        """The names of all extended attributes."""
        ...

    def open_flags(self, node: int) -> int | None:
        """How the kernel shall read the file ``node`` (``abi.FOPEN_...``); None: as usual, without asking."""
        ...

    def try_read(self, node: int, offset: int, size: int) -> Sequence[Buffer] | None:
        """The bytes, fewer at the end of the file, when they are in memory; else None."""
        ...

    async def read(self, node: int, offset: int, size: int) -> Sequence[Buffer]:
        """The same, waiting for them. May be cancelled at any checkpoint."""
        ...

    def forget(self, nodes: Sequence[tuple[int, int]]) -> None:
        """(node id, count): the kernel takes so many of its lookups back; after the last it has let go."""
        ...

    def describe(self, node: int) -> str:
        """Names the node in a log line, as ``cafs.core.log_fields`` writes; whatever the node is."""
        ...

    def total_bytes(self) -> int:
        """Size of the whole, for ``statfs``."""
        ...

    def total_files(self) -> int:
        """Number of inodes, for ``statfs``."""
        ...
