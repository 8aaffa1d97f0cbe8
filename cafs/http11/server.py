"""Listening and connections: the thin trio shell. Knows nothing of what is asked.

Used by the mount server's control socket, the peer's node socket and its upload server. ``serve_http``
accepts from a listening socket that is not its own, so that one who keeps it open (a supervisor, systemd)
loses no connection between two servers. Each connection is a task. Bounds: ``ServerLimits``. Cancelling it
closes all connections without another word, which tells clients to repeat their requests.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from functools import partial
from http import HTTPStatus

import trio

from cafs.http11.certificates import Complaints, tls_failure, why_not_good_for
from cafs.http11.conversation import Conversation, PeerLeftError
from cafs.http11.messages import Handler, Reply, Request, ServerLimits, refusal

log = logging.getLogger(__name__)

_NO_DESCRIPTORS_S = 0.05
_UNIX_SEND_BYTES = 512 << 10
"""What a client on this machine may have to read yet: each time that it is full wakes up both sides."""
_SO_SNDBUFFORCE = 32
"""<asm-generic/socket.h>; past ``net.core.wmem_max``."""
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, PeerLeftError)


async def serve_http(
    listener: socket.socket,
    handler: Handler,
    limits: ServerLimits | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Answer until cancelled.

    Args:
        listener: Listening, unix or TCP; stays the caller's.
        handler: Answers; whatever it raises is answered with 500, or breaks off what it had begun.
        limits: Of connections, requests and time.
        tls: For a server that speaks TLS, and says what it expects of clients' certificates; who shows one
            that is not good for the address he comes from is answered 403, whatever he asks.
    """
    await _Server(handler, limits or ServerLimits(), tls).run(listener)


class _Server:
    def __init__(self, handler: Handler, limits: ServerLimits, tls: ssl.SSLContext | None) -> None:
        self._handler = handler
        self._limits = limits
        self._tls = tls
        self._room = trio.Semaphore(limits.connections)
        self._of_client: Counter[str] = Counter()
        self._complaints = Complaints()

    async def run(self, listener: socket.socket) -> None:
        accepting = trio.socket.from_stdlib_socket(listener.dup())
        with accepting:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._room.acquire()
                    try:
                        connection, address = await accepting.accept()
                    except OSError as e:  # the client left, or no descriptors: the next must be served
                        self._room.release()
                        log.warning("cannot accept a connection: %s", e)
                        await trio.sleep(_NO_DESCRIPTORS_S)
                        continue
                    client = address[0] if isinstance(address, tuple) else ""
                    if not client:
                        _widen(connection)
                    nursery.start_soon(self._serve, trio.SocketStream(connection), client)

    async def _serve(self, stream: trio.SocketStream, client: str) -> None:
        self._of_client[client] += 1
        try:
            async with stream:
                if not client or self._of_client[client] <= self._limits.client_connections:
                    await self._converse(stream, client)
        except _GONE:
            log.debug("a client left early or was too slow")
        except Exception:
            log.exception("a connection failed in an unforeseen way")
        finally:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]
            self._room.release()

    async def _converse(self, plain: trio.SocketStream, client: str) -> None:
        stream: trio.abc.Stream = plain
        handler = self._handler
        if self._tls is not None:
            # Compatible: many clients close without a word, and every answer says where it ends.
            stream = tls = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
            with trio.fail_after(self._limits.request_s):
                await self._shake_hands(tls, client)
            if why := self._objection(tls, client):
                self._complain(client, why)
                handler = partial(_refuse, why)
        await Conversation(stream, plain.socket, client, handler, self._limits).run()

    async def _shake_hands(self, tls: trio.SSLStream[trio.SocketStream], client: str) -> None:
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as e:
            if why := tls_failure(e):
                self._complain(client, why)
            raise

    def _objection(self, tls: trio.SSLStream[trio.SocketStream], client: str) -> str:
        """To a certificate; a server that asks for none has nothing against anybody."""
        assert self._tls is not None
        if self._tls.verify_mode is not ssl.CERT_REQUIRED:
            return ""
        return why_not_good_for(tls.getpeercert() or {}, client)

    def _complain(self, client: str, why: str) -> None:
        if self._complaints.is_due(f"{client} {why}", trio.current_time()):
            log.warning("%s was refused: %s", client, why)


def _widen(connection: trio.socket.SocketType) -> None:
    """As far as it may be."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _UNIX_SEND_BYTES)
    except PermissionError:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_SEND_BYTES)


async def _refuse(why: str, _request: Request, reply: Reply) -> None:
    await reply.send(refusal(HTTPStatus.FORBIDDEN, why, "unauthorized"))
