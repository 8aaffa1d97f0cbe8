"""What gRPC's core writes to standard error of its own accord, said in our words.

There is no way to be told of a TLS handshake that failed but a line that the core writes to descriptor 2. So
while ``tls_words`` lasts, descriptor 2 is a pipe: a thread reads it, says what it understands, and passes all
else on as it is. Python's own standard error does not go through it: nothing is lost there if we are killed.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from cafs.http11.certificates import Complaints

log = logging.getLogger(__name__)

_FAILED = re.compile(
    rb"[IWEF]\d{4} \S+ +\d+ ssl_transport_security\S*\] Handshake failed with error \S+(?: (.*))?"
)
"""A line of Abseil's log: level and day, time, thread, place."""
_REASON = re.compile(r"OPENSSL_internal:([A-Z0-9_]+)(?:: (.*))?")
_NO_WORD = "Invalid certificate verification context"
"""BoringSSL's detail where no certificate came."""
_CLOSE_S = 1.0


def failed_handshake(line: bytes) -> str | None:
    """Why TLS with somebody failed, in a few words; None: the line is about something else."""
    found = _FAILED.match(line)
    if found is None:
        return None
    said = (found[1] or b"").decode("utf-8", "replace").strip()
    reason = _REASON.search(said)
    if reason is None:
        return said[:200] or "it broke off"
    words, detail = reason[1].replace("_", " ").lower(), (reason[2] or "").strip()
    return f"{words}: {detail[:200]}" if detail and detail != _NO_WORD else words


@contextmanager
def tls_words() -> Iterator[None]:
    """Say in one line of the log that TLS with a client failed, and why; the same once a minute."""
    ours = os.dup(2)
    read, write = os.pipe()
    before, sys.stderr = sys.stderr, os.fdopen(os.dup(ours), "w", buffering=1, errors="backslashreplace")
    os.dup2(write, 2)
    os.close(write)
    reader = Thread(target=_pass_on, args=(read, ours), name="grpc words", daemon=True)
    reader.start()
    try:
        yield
    finally:
        os.dup2(ours, 2)  # closes the pipe
        reader.join(_CLOSE_S)
        sys.stderr.close()
        sys.stderr = before


def _pass_on(read: int, ours: int) -> None:
    complaints = Complaints()
    with open(read, "rb") as lines:
        for line in lines:
            why = failed_handshake(line)
            if why is None:
                with suppress(OSError):  # whatever becomes of it: a pipe that nobody reads would stop gRPC
                    os.write(ours, line)
            elif complaints.is_due(why, time.monotonic()):
                log.warning("a host was refused, as TLS with it failed: %s", why)
    os.close(ours)
