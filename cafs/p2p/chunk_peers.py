"""Asks other hosts for chunks: ``POST /v1/chunks`` to their upload servers.

Keeps connections, and remembers for a while who could not be reached or sent wrong bytes.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import nullcontext
from functools import partial

import trio

from cafs.core.swarm.chunk_request import CHUNKS_PATH, HAVE_HEADER, LEAST_URGENT, ChunkWish, cut_answer
from cafs.core.tracing import UNTRACED, Tracer
from cafs.errors import ProtocolError, RemoteError, UnavailableError
from cafs.http11.certificates import Complaints, tls_failure
from cafs.http11.connection import Connection, connect
from cafs.http11.pool import AS_IT_COMES, AwayError, ConnectionPool
from cafs.p2p.chunk_verify import Frame
from cafs.p2p.giving_way import GivingWay
from cafs.p2p.live_limits import Throttle
from cafs.p2p.membership import ChunkMember

log = logging.getLogger(__name__)

CONNECT_S = 2.0
AWAY_S, WRONG_S = 5.0, 600.0
_SLOWEST_BYTES_PER_S = 256 << 10
_MAX_POOLS, _MOST_SHUNNED = 256, 512
_OK, _FORBIDDEN, _BUSY = 200, 403, 503


class ChunkPeers:
    """Other hosts, by the address of their upload server."""

    def __init__(self, tls: ssl.SSLContext | None, download: Throttle, tracer: Tracer = UNTRACED) -> None:
        """
        Args:
            tls: What to show and to expect where hosts speak mTLS.
            download: The rate at which others may send us something.
            tracer: Hears of requests; other hosts hear of their traces.
        """
        self._tracer = tracer
        self._tls = tls
        self._download = download
        self._pools: dict[tuple[str, int | None], ConnectionPool] = {}
        """By address, and what may queue."""
        self._fill = GivingWay()
        self._shunned: dict[str, float] = {}
        self._complaints = Complaints()

    def is_shunned(self, member: ChunkMember) -> bool:
        """It is not asked for now."""
        return self._shunned.get(member.address, 0.0) > trio.current_time()

    def shun(self, member: ChunkMember, for_s: float) -> None:
        """Do not ask it for so long."""
        now = trio.current_time()
        if len(self._shunned) >= _MOST_SHUNNED:
            # Who lied stays longest: no number of hosts that are merely away has him asked again.
            by_end = sorted(self._shunned.items(), key=lambda shunned: -shunned[1])
            self._shunned = {address: end for address, end in by_end[: _MOST_SHUNNED // 2] if end > now}
        self._shunned[member.address] = max(now + for_s, self._shunned.get(member.address, 0.0))

    async def ask(self, member: ChunkMember, wish: ChunkWish, patience_s: float) -> list[Frame | None]:
        """The frames it has, not verified.

        Raises:
            UnavailableError: it is busy.
            RemoteError: it cannot be reached (then it is shunned), is slow, or talks nonsense.
        """
        count, size = len(wish.refs), wish.frame_bytes
        with self._tracer.span(
            "cafs.chunks", blob=wish.blob.digest, chunks=count, bytes=size, host=member.address
        ):
            return await self._ask(member, wish, patience_s)

    async def _ask(self, member: ChunkMember, wish: ChunkWish, patience_s: float) -> list[Frame | None]:
        try:
            # Each part within patience, and the whole within a time that only a bad link needs.
            waits = self._fill.reader() if not wish.urgency else nullcontext()
            with waits, trio.fail_after(patience_s + wish.frame_bytes / _SLOWEST_BYTES_PER_S):
                answer = await self._pool(member.address, fill=wish.urgency == LEAST_URGENT).ask(
                    "POST",
                    CHUNKS_PATH,
                    body=wish.encode(),
                    headers=self._tracer.headers(),
                    most_bytes=wish.frame_bytes,
                    stall_s=patience_s,
                )
        except AwayError as e:
            self._note_untrusted(member, tls_failure(e))
            self.shun(member, AWAY_S)
            raise
        except trio.TooSlowError:
            raise RemoteError(f"{member.address} is too slow") from None
        if wish.urgency < LEAST_URGENT:
            self._fill.note_read(len(answer.body))
        await self._download.spend(len(answer.body))
        if answer.status == _BUSY:
            raise UnavailableError(f"{member.address} is busy")
        if answer.status == _FORBIDDEN:
            self._note_untrusted(member, "this host's certificate is not good for where it comes from")
            self.shun(member, AWAY_S)
        if answer.status != _OK:
            raise RemoteError(f"{member.address} answered {answer.status}")
        try:
            return [*cut_answer(answer.headers.get(HAVE_HEADER, "="), answer.body, wish.refs)]
        except ProtocolError:
            self.shun(member, AWAY_S)
            raise

    def _note_untrusted(self, member: ChunkMember, why: str) -> None:
        if why and self._complaints.is_due(member.address, trio.current_time()):
            log.warning("peer %s: %s", member.address, why)

    def close(self) -> None:
        """Let go of all connections."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _pool(self, address: str, *, fill: bool) -> ConnectionPool:
        queue_bytes = self._fill.queue_bytes() if fill else None
        found = self._pools.pop((address, queue_bytes), None)
        if found is None:
            if len(self._pools) >= _MAX_POOLS:
                self._pools.pop(next(iter(self._pools))).close()
            connect = partial(_connect, address, self._tls, queue_bytes)
            found = ConnectionPool(address, address, connect, pace=self._fill if fill else AS_IT_COMES)
        self._pools[address, queue_bytes] = found  # the one used last is at the end
        return found


async def _connect(address: str, tls: ssl.SSLContext | None, queue_bytes: int | None) -> Connection:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise OSError(f"not an address: {address[:60]!r}")
    with trio.fail_after(CONNECT_S):
        connection = await connect(host.removeprefix("[").removesuffix("]"), int(port), tls)
    if queue_bytes is not None:
        connection.narrow(queue_bytes)
    return connection
