"""What is said to systemd and what it hands over: sd_notify(3), sd_listen_fds(3), the descriptor store.

Without systemd (no ``NOTIFY_SOCKET``) everything here does nothing. The protocol is a datagram of
``KEY=VALUE`` lines; descriptors travel with it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

log = logging.getLogger(__name__)

_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


class ServiceManager:
    """The other end of ``NOTIFY_SOCKET``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        self._watchdog = environment.get("WATCHDOG_USEC", "")

    @property
    def is_there(self) -> bool:
        """Whether somebody listens: then he also keeps our descriptors."""
        return self._path.startswith(("/", "@"))

    @property
    def watchdog_s(self) -> float | None:
        """How often it wants to hear of us at least."""
        return int(self._watchdog) / 1e6 if self._watchdog.isdecimal() and int(self._watchdog) else None

    def tell(self, *lines: str) -> None:
        """Say something. It not being heard is no failure of ours."""
        self._send(lines, [])

    def store(self, descriptors: Mapping[str, int]) -> None:
        """Have these kept, and handed to the next start under their names."""
        for name, descriptor in descriptors.items():
            self._send(["FDSTORE=1", f"FDNAME={name}"], [descriptor])

    def discard(self, names: list[str]) -> None:
        """Have them kept no more."""
        for name in names:
            self._send(["FDSTOREREMOVE=1", f"FDNAME={name}"], [])

    def _send(self, lines: tuple[str, ...] | list[str], descriptors: list[int]) -> None:
        if not self.is_there:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)  # the trio thread says things here, too
                channel.connect(address)
                socket.send_fds(channel, ["\n".join(lines).encode()], descriptors)
        except OSError as e:
            log.warning("cannot tell systemd %s: %s", lines[0], e)


def take_handed_over(environment: MutableMapping[str, str]) -> dict[str, int]:
    """The descriptors that we were started with, by name; the variables are removed for our children.

    Of several with one name the last counts: systemd keeps what an earlier start stored.
    """
    values = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if values["LISTEN_PID"] != str(os.getpid()) or not values["LISTEN_FDS"].isdecimal():
        return {}
    names = values["LISTEN_FDNAMES"].split(":")
    found: dict[str, int] = {}
    for position in range(int(values["LISTEN_FDS"])):
        descriptor = _FIRST_DESCRIPTOR + position
        os.set_inheritable(descriptor, False)
        name = names[position] if position < len(names) else "unknown"
        if (older := found.pop(name, None)) is not None:
            with suppress(OSError):
                os.close(older)
        found[name] = descriptor
    return found
