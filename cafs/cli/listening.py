"""Where a service listens, as it is written on the command line. Pure."""

from __future__ import annotations

from cafs.errors import UsageError


def parse_listen(text: str, option: str = "--listen") -> tuple[str, int]:
    """HOST and port of ``HOST:PORT`` or ``:PORT``, which is on this machine only. Port 0: any free one.

    Raises:
        UsageError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or int(port) >= 1 << 16:
        raise UsageError(f"{option} {text}: expected HOST:PORT, or :PORT for this machine only")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
