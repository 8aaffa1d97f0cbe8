"""Tells systemd's watchdog that the mount server answers, by asking it as a client does.

A request goes through the listening socket, the trio loop that also answers FUSE, and the chunk service's
counters; while any of these is stuck, systemd hears nothing and restarts the service.
"""

from __future__ import annotations

import logging
from pathlib import Path

import trio

from cafs.control_socket.exchange import Exchange
from cafs.control_socket.protocol import STATUS_PATH
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import ProtocolError

log = logging.getLogger(__name__)

_PAUSES_IN_AN_INTERVAL = 4
"""A question and a pause are half an interval at most."""


async def feed_watchdog(manager: ServiceManager, socket_path: Path) -> None:
    """Until cancelled; returns at once when nobody watches."""
    interval_s = manager.watchdog_s
    if interval_s is None:
        return
    pause_s = interval_s / _PAUSES_IN_AN_INTERVAL
    while True:
        with trio.move_on_after(pause_s):
            if await _answers(socket_path):
                manager.tell("WATCHDOG=1")
        await trio.sleep(pause_s)


async def _answers(socket_path: Path) -> bool:
    exchange = Exchange("GET", STATUS_PATH)
    try:
        async with await trio.open_unix_socket(str(socket_path)) as stream:
            await stream.send_all(exchange.to_send)
            while (answer := exchange.feed(await stream.receive_some())) is None:
                pass
    except (OSError, trio.BrokenResourceError, ProtocolError) as e:
        log.warning("the control socket does not answer: %s", e)
        return False
    return answer[0] == 200
