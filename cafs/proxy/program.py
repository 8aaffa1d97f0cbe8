"""``cafs proxy`` as a process: listeners, the way to this node's peer, an orderly end (trio)."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import trio
from blake3 import blake3

from cafs.core.host_address import parse_address
from cafs.core.settings import Settings
from cafs.core.statistics.ledger import Ledger
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import ProtocolError, StateError, UsageError
from cafs.http11.lookups import use_own_lookups
from cafs.http11.metrics_port import metrics_served
from cafs.p2p.manager import manager_attached
from cafs.p2p.node_client import NodeDistributor, usual_node_socket
from cafs.proxy.config import ProxyConfig
from cafs.proxy.origin import Patience
from cafs.proxy.service import Proxy

log = logging.getLogger(__name__)

_KEPT = 16
"""Connections to this node's peer that wait for the next request."""


@dataclass(frozen=True, slots=True)
class Options:
    """From the command line."""

    host: str
    port: int
    p2p: bool
    metrics: tuple[str, int] | None = None
    """Where figures are served."""


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners on every address of ``host``.

    Raises:
        StateError: it cannot be listened there.
    """
    try:
        return list(await trio.open_tcp_listeners(port, host=host, backlog=512))
    except OSError as e:
        raise StateError(f"cannot listen on {host}:{port}: {e.strerror or e}") from e


async def run(settings: Settings, options: Options, say: Callable[[str], None]) -> None:
    """Serve until the process is told to end.

    Raises:
        UsageError: the settings say what cannot be.
        StateError: it cannot be listened there.
    """
    use_own_lookups()
    peer = NodeDistributor(usual_node_socket(settings.run_dir), most_kept=_KEPT) if options.p2p else None
    proxy = Proxy(ProxyConfig.from_settings(settings), Patience.from_settings(settings), peer)
    listeners = await listen(options.host, options.port)
    try:
        async with metrics_served(options.metrics, proxy.figures.render):
            for listener in listeners:
                say(f"serving on http://{_shown(listener.socket)}")
            with _manager_attached(settings, proxy, listeners[0].socket.getsockname()[1]):
                ServiceManager(os.environ).tell("READY=1")
                await proxy.serve(listeners)
    finally:
        for listener in listeners:
            listener.socket.close()
        if peer is not None:
            peer.close()


def _manager_attached(settings: Settings, proxy: Proxy, port: int) -> AbstractContextManager[object]:
    """A proxy serves its node, so it goes by the address of the node's peer, with its own port.

    Raises:
        UsageError: it is not said at which address others reach this node.
        StateError: a library is missing.
    """
    host = (settings.peer_address or settings.peer_listen).rpartition(":")[0]
    address = f"{host or '127.0.0.1'}:{port}"
    try:
        address = parse_address(address) if settings.managers else address
    except ProtocolError as e:
        raise UsageError(f"peer_address must say at which address others reach this node ({e})") from e
    name = f"proxy|{socket.gethostname()}|{address}"
    host_id = blake3(name.encode()).hexdigest(length=16)
    ledger = Ledger(secrets.token_hex(16), proxy.figures.amounts)
    return manager_attached(settings, "PROXY", host_id, address, obey=proxy.rules.obey, ledger=ledger)


def _shown(listening: trio.socket.SocketType) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if listening.family == socket.AF_INET6 else f"{host}:{port}"
