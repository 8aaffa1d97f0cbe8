"""Who exchanges the chunks of a blob with whom: what the chunk exchange needs to know of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cafs.core.source import BlobRef
from cafs.core.swarm.ids import HostId, TaskId, task_id

TAG = "chunks"
"""A host has one place in a task's swarm: whoever downloads a blob as a whole has another task."""


def chunk_task(blob: BlobRef) -> TaskId:
    """What the exchange of a blob's chunks is called."""
    return task_id("", tag=TAG, digest=blob.digest)


@dataclass(frozen=True, slots=True)
class ChunkMember:
    """Another host in the swarm of a blob."""

    host_id: HostId
    address: str
    """Of its upload server."""


@dataclass(frozen=True, slots=True)
class ChunkSwarm:
    """Who shares the work of bringing a blob's chunks from the registry, as all members see it."""

    task: TaskId
    owners: tuple[ChunkMember, ...]
    """Others; each owns its part of the blob."""
    self_owner: bool
    """This host owns a part, too."""


class Membership(Protocol):
    """Of this host in the swarms of blobs."""

    @property
    def host_id(self) -> HostId: ...

    async def swarm(self, blob: BlobRef, repository: str) -> ChunkSwarm:
        """The swarm as it is now; joins it the first time, and then waits until it is known.

        Callers bound the wait. Called for each request: what is known is answered at once.
        """
        ...

    def leave(self, blob: BlobRef) -> None:
        """This host mounts nothing of the blob any more."""
        ...

    def note_wrong(self, blob: BlobRef, member: ChunkMember) -> None:
        """The member sent bytes that are not what they should be."""
        ...


class NoMembership:
    """A host without a scheduler: a swarm of its own."""

    def __init__(self, host_id: HostId) -> None:
        self.host_id = host_id

    async def swarm(self, blob: BlobRef, repository: str) -> ChunkSwarm:
        """See ``Membership``."""
        return ChunkSwarm(TaskId("0" * 64), (), True)

    def leave(self, blob: BlobRef) -> None:
        """See ``Membership``."""

    def note_wrong(self, blob: BlobRef, member: ChunkMember) -> None:
        """See ``Membership``."""
