"""Where a service listens, as it is written on the command line."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import ip_address

from cafs.errors import StateError, UsageError


def parse_listen(text: str, option: str = "--listen") -> tuple[str, int]:
    """HOST and port of ``HOST:PORT`` or ``:PORT``, which is on this machine only. Port 0: any free one.

    Raises:
        UsageError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or int(port) >= 1 << 16:
        raise UsageError(f"{option} {text}: expected HOST:PORT, or :PORT for this machine only")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def take_addresses(texts: Mapping[str, str]) -> dict[str, str]:
    """Addresses at which other processes are going to listen, and at which others find them; port 0 replaced.

    All are held until all are chosen: so none is chosen twice.

    Args:
        texts: HOST:PORT, by the option that says so.

    Raises:
        UsageError: one is none, or none of this machine.
        StateError: another program listens there.
    """
    with ExitStack() as held:
        return {option: _take(text, option, held) for option, text in texts.items()}


def _take(text: str, option: str, held: ExitStack) -> str:
    host, port = parse_listen(text, option)
    try:
        if ip_address(host).is_unspecified:
            raise UsageError(f"{option} {text}: name one address of this machine, at which others find it")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = held.enter_context(socket.create_server((host, port), family=family))
    except ValueError as e:
        raise UsageError(f"{option} {text}: expected an IP address before the port") from e
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            raise StateError(
                f"{host}:{port} is taken: choose another address with {option} HOST:PORT"
                " (port 0: any free one)"
            ) from e
        raise UsageError(f"{option} {text}: {e.strerror}") from e
    port = listener.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
