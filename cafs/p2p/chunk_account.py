"""Whether a blob's chunks are exchanged here, by the rules that hold now, and where what came is counted."""

from __future__ import annotations

from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.repositories import Repositories
from cafs.p2p.chunk_origin import parse_repository
from cafs.p2p.means import Means
from cafs.p2p.membership import ChunkMember, chunk_task


class ChunkAccount:
    """See the module, and ``chunk_exchange.Account``."""

    def __init__(self, means: Means, repositories: Repositories) -> None:
        self._means = means
        self._repositories = repositories

    def check(self, wish: ChunkWish) -> None:
        """See ``chunk_exchange.Account``: by the address at which this host asks for the whole blob, too."""
        if not self._means.policy.rules.block:
            return
        repository = self._repositories.get(parse_repository(wish.repository))
        assert isinstance(repository, RegistryRepository)
        path = repository.path(f"blobs/{wish.blob.digest}")
        self._means.policy.judge_chunks(f"{repository.client.base}{path}")

    def note(self, blob: BlobRef, count: int, member: ChunkMember | None) -> None:
        """See ``chunk_exchange.Account``: for the task that schedulers know the exchange as."""
        task = chunk_task(blob)
        self._means.traffic.note(task, count, member.address if member is not None else None)
        self._means.shares.note(task, "", **{"origin_bytes" if member is None else "peer_bytes": count})
