"""The proxy as a whole: listens, and gives each connection a task of its own (trio).

``serve`` runs until it is cancelled, which breaks all connections off. Bounds: connections at once, a head's
size, and how long a client may keep us waiting (``client``).
"""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

import trio

from cafs.p2p.content import Distributor
from cafs.proxy.admission import Admission
from cafs.proxy.config import ProxyConfig
from cafs.proxy.conversation import Conversation
from cafs.proxy.direct import DirectDistributor
from cafs.proxy.fallback import PeerOrDirect
from cafs.proxy.figures import Figures
from cafs.proxy.live_rules import LiveRules
from cafs.proxy.origin import Origins, Patience
from cafs.proxy.parts import Parts

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2048
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
_LINGER_S, _LINGER_BYTES = 1.0, 1 << 20
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection, so that nobody takes a body that ends with it for whole."""


class Proxy:
    """Everything a proxy needs but its listeners."""

    def __init__(
        self, config: ProxyConfig, patience: Patience, distributor: Distributor | None = None
    ) -> None:
        """``distributor``: the engine's, or this node's peer's, which may be away; None: no P2P."""
        self.figures = Figures()
        self.rules = LiveRules(config.rules)
        # Of this process alone, so that it recognises what it has sent itself.
        our_name = f"cafs-{secrets.token_hex(4)}"
        self._origins = Origins(config.guard, patience)
        direct = DirectDistributor(self._origins, our_name)
        self._parts = Parts(
            config,
            self._origins,
            PeerOrDirect(distributor, direct) if distributor is not None else direct,
            # Straight from the origin, every client is let in or not by the origin itself.
            Admission(self._origins, our_name) if distributor is not None else None,
            self.figures,
            our_name,
            self.rules,
        )

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer until cancelled. The listeners stay the caller's."""
        room = trio.Semaphore(MAX_CONNECTIONS)
        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, room, nursery)
                task_status.started()
        finally:
            self._origins.close()

    async def _accept(
        self, listener: trio.SocketListener, room: trio.Semaphore, nursery: trio.Nursery
    ) -> None:
        while True:
            await room.acquire()
            try:
                stream = await listener.accept()
            except OSError as e:
                room.release()
                if e.errno in _NO_ROOM:
                    log.warning("cannot accept a connection: %s", e)
                    await trio.sleep(0.1)
                continue
            nursery.start_soon(self._serve_connection, stream, room)

    async def _serve_connection(self, stream: trio.SocketStream, room: trio.Semaphore) -> None:
        self.figures.connections += 1
        try:
            with suppress(OSError):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conversation = Conversation(self._parts, stream)
            await conversation.run()
            if not conversation.is_read_out:
                await _let_read(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            with suppress(OSError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        except Exception:
            log.exception("a connection failed in an unforeseen way")
            with suppress(OSError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        finally:
            stream.socket.close()
            self.figures.connections -= 1
            room.release()


async def _let_read(stream: trio.SocketStream) -> None:
    """Closing with unread bytes would reset the connection, and lose an answer that is still on its way."""
    with trio.move_on_after(_LINGER_S):
        await stream.send_eof()
        seen = 0
        while seen < _LINGER_BYTES and (data := await stream.receive_some(_LINGER_BYTES)):
            seen += len(data)
