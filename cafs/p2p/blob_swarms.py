"""This host's places in the swarms of blobs whose chunks are exchanged: ``Membership`` by the schedulers."""

from __future__ import annotations

import trio

from cafs.core.digest import Digest
from cafs.core.source import BlobRef
from cafs.core.swarm.ids import HostId
from cafs.core.swarm.messages import FailReason, MembersChanged, Refused, SwarmEvent
from cafs.core.swarm.swarm_view import SwarmView
from cafs.core.swarm.task import TaskSpec
from cafs.p2p.membership import TAG, ChunkMember, ChunkSwarm, chunk_task
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.swarm_session import Session


class BlobSwarms:
    """See ``Membership``."""

    def __init__(self, host_id: HostId, schedulers: Schedulers) -> None:
        self.host_id = host_id
        self._schedulers = schedulers
        self._places: dict[Digest, _Place] = {}

    async def swarm(self, blob: BlobRef, repository: str) -> ChunkSwarm:
        """See ``Membership``."""
        place = self._places.get(blob.digest)
        if place is None:
            place = self._places[blob.digest] = _Place(self.host_id, blob, self._schedulers)
        if not self._schedulers.is_lost(place.session):
            await place.told.wait()
        return place.swarm()

    def leave(self, blob: BlobRef) -> None:
        """See ``Membership``."""
        if (place := self._places.pop(blob.digest, None)) is not None:
            place.session.leave()

    def note_wrong(self, blob: BlobRef, member: ChunkMember) -> None:
        """See ``Membership``."""
        if (place := self._places.get(blob.digest)) is not None:
            place.session.tell_failed(0, member.host_id, FailReason.CORRUPT)


class _Place:
    """In one swarm."""

    def __init__(self, me: HostId, blob: BlobRef, schedulers: Schedulers) -> None:
        self._me = me
        self._view = SwarmView()
        self._members: tuple[ChunkMember, ...] | None = None
        self.task = chunk_task(blob)
        self.told = trio.Event()
        spec = TaskSpec(task_id=self.task, url="", digest=blob.digest, tag=TAG, private=True)
        self.session: Session = schedulers.join(spec, self._hear, chunks_only=True)

    def _hear(self, event: SwarmEvent) -> None:
        if isinstance(event, MembersChanged):
            self._view.apply(event, self._me, trio.current_time())
            self._members = None
        elif isinstance(event, Refused) and event.why == "unknown_peer":
            self.session.register_anew()
            return
        self.told.set()  # whatever it is: nobody need wait for more

    def swarm(self) -> ChunkSwarm:
        if self._members is None:
            owners = [known.member for known in self._view.members.values() if known.member.owner]
            self._members = tuple(ChunkMember(member.host, member.address) for member in owners)
        return ChunkSwarm(self.task, self._members, self._view.self_owner)
