"""This node's peer, asked for chunks before the registry: whoever mounts the same image may have them.

A peer is a help, never a need: when its socket is not there, when it refuses, breaks off, is slow or has not
all, the registry is asked, at once and for what is missing only (``peer_first``). Small blobs, as layer
indexes are, come through it as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import quote

import trio

from cafs.core.digest import Digest
from cafs.core.settings import Settings
from cafs.core.swarm.chunk_request import (
    CHUNKS_PATH,
    HAVE_HEADER,
    LEAST_URGENT,
    STORE_HEADER,
    STORED_HEADER,
    ChunkWish,
    cut_answer,
    decode_bits,
)
from cafs.core.swarm.download_request import DOWNLOAD_PATH, DownloadRequest
from cafs.errors import CafsError, DeadlineError, RemoteError
from cafs.http11.connection import connect_unix
from cafs.http11.messages import Headers
from cafs.http11.pool import Answered, AwayError, ConnectionPool
from cafs.oci.blob_check import check_whole
from cafs.oci.descriptor import AnyBlob
from cafs.oci.registry.library import needs_proxy
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.repository import Repository
from cafs.store.location import store_directory

log = logging.getLogger(__name__)

PATIENCE_S = (4.0, 8.0, 12.0, 40.0)
"""For the peer to answer, by urgency: its own patience with others is less, but for a slow registry."""
AWAY_S, SLOW_S = 1.0, 5.0
"""How long it is not asked again after it was away, or was slow or failed."""
REFUSED_S = 5.0
"""And for the chunks of a blob that it has no part in."""
BLOB_PATIENCE_S = 4.0
MAX_BLOB_BYTES = 32 << 20
_MAX_REFUSED_BLOBS, _MAX_REFUSAL_BYTES = 256, 4 << 10
_OK, _CONFLICT = 200, 409


def peer_socket(run_dir: Path) -> Path:
    """Where this node's peer listens; the one place that knows."""
    return run_dir / "peer" / "peer.sock"


@dataclass(frozen=True, slots=True)
class Brought:
    """What the peer did about a wish, chunk by chunk."""

    frames: Sequence[memoryview | None]
    """What it sent, not verified."""
    stored: Sequence[bool]
    """Those that lie in our store, or will in a moment, and were not sent."""
    keeps: bool = False
    """It stores in our store what it sent."""

    @classmethod
    def nothing(cls, count: int) -> Self:
        """The peer was of no help."""
        return cls([None] * count, [False] * count)


class LocalPeer:
    """The peer on the node socket. For one trio thread."""

    def __init__(self, socket: Path, store: Path | None) -> None:
        """
        Args:
            socket: Its node socket, which need not be there.
            store: Our chunk store.
        """
        self._pool = ConnectionPool("this node's peer", "peer", partial(connect_unix, str(socket)))
        self._store = quote(str(store)) if store is not None else None
        self._not_before = 0.0
        self.is_there = False
        """It was asked for the last chunks that were wanted, and has answered such a question."""
        self._refused: dict[Digest, float] = {}
        """Blobs, and until when it is not asked for their chunks."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As configured."""
        return cls(peer_socket(settings.run_dir), store_directory(settings.cache_dir))

    def close(self) -> None:
        """Let go of idle connections; it may be asked again."""
        self._pool.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Headers = (),
        most_bytes: int,
        patience_s: float,
    ) -> Answered | None:
        """Its answer to anything else than a wish for content; None: it is away, slow, or breaks off."""
        try:
            with trio.fail_after(patience_s):
                return await self._pool.ask(
                    method, path, body=body, headers=headers, most_bytes=most_bytes, stall_s=patience_s
                )
        except (RemoteError, trio.TooSlowError) as e:
            log.debug("this node's peer does not answer %s: %s", path, e)
            return None

    async def chunks(self, wish: ChunkWish) -> Brought:
        """What it has; nothing when it is away."""
        nothing = Brought.nothing(len(wish.refs))
        if trio.current_time() < max(self._not_before, self._refused.get(wish.blob.digest, 0.0)):
            self.is_there = False
            return nothing
        patience_s = PATIENCE_S[wish.urgency]
        shared = self._store if wish.urgency == LEAST_URGENT else None
        try:
            with trio.fail_after(patience_s):
                answer = await self._pool.ask(
                    "POST",
                    CHUNKS_PATH,
                    body=wish.encode(),
                    headers=((STORE_HEADER, shared),) if shared is not None else (),
                    most_bytes=max(wish.frame_bytes, _MAX_REFUSAL_BYTES),
                    stall_s=patience_s,
                )
            if answer.status == _CONFLICT:
                self._note_refused(wish, answer.body)
                return nothing
            if answer.status != _OK:
                raise DeadlineError(f"it answered {answer.status}")
            frames = cut_answer(answer.headers.get(HAVE_HEADER, "%"), answer.body, wish.refs)
            said = answer.headers.get(STORED_HEADER, "") if shared is not None else ""
            stored = decode_bits(said, len(wish.refs))
        except AwayError:
            self._not_before = trio.current_time() + AWAY_S
            return nothing
        except (DeadlineError, trio.TooSlowError) as e:
            log.info("this node's peer is not asked for %g s: %s", SLOW_S, e or "it is slow")
            self._not_before = trio.current_time() + SLOW_S
            return nothing
        except RemoteError as e:
            log.info("this node's peer broke off: %s", e)
            return nothing
        self.is_there = True
        keeps = self._store is not None and answer.headers.get(STORE_HEADER) == self._store
        return Brought(frames, stored, keeps)

    def _note_refused(self, wish: ChunkWish, body: bytes) -> None:
        """It works, but has no part in this blob: its cluster's configuration blocks it."""
        log.info(
            "chunks of %s come straight from %s: this node's peer says %r",
            wish.blob.digest,
            wish.repository,
            body.decode(errors="replace")[:_MAX_REFUSAL_BYTES],
        )
        if len(self._refused) >= _MAX_REFUSED_BLOBS:
            self._refused.clear()
        self._refused[wish.blob.digest] = trio.current_time() + REFUSED_S

    async def blob(self, repository: Repository, blob: AnyBlob) -> bytes | None:
        """A small blob of a registry as a whole, verified; None: the registry is to be asked.

        The peer is handed what lets us in there. It knows nothing of our environment's proxies.
        """
        if not isinstance(repository, RegistryRepository) or blob.size > MAX_BLOB_BYTES:
            return None
        if trio.current_time() < self._not_before or needs_proxy(repository.client.base):
            return None
        try:
            with trio.fail_after(BLOB_PATIENCE_S):
                held = await repository.client.authorization(repository.pull_scopes)
                wish = DownloadRequest(
                    url=f"{repository.client.base}{repository.path(f'blobs/{blob.digest}')}",
                    digest=blob.digest,
                    headers=(("authorization", held),) if held is not None else (),
                )
                answer = await self._pool.ask(
                    "POST",
                    DOWNLOAD_PATH,
                    body=wish.encode(),
                    most_bytes=blob.size,
                    stall_s=BLOB_PATIENCE_S,
                )
            if answer.status != _OK:
                raise RemoteError(f"it answered {answer.status}")
            return check_whole(answer.body, blob, f"blob {blob.digest} of this node's peer")
        except AwayError:
            self._not_before = trio.current_time() + AWAY_S
        except (trio.TooSlowError, CafsError) as e:
            log.info("blob %s did not come from this node's peer: %s", blob.digest, e or "it is slow")
        return None
