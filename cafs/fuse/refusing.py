"""What becomes of readers while no server can begin. Used by ``supervisor`` between two of them.

A server keeps the deadline of each read. Where one after the other ends before it serves, nobody would: who
reads waits, and so does whoever unmounts an EROFS on top, which waits for its pages. So after a while they
are told EIO, until a server begins after all.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time

from cafs.fuse import replies
from cafs.fuse.abi import IN_HEADER, Opcode
from cafs.fuse.outstanding import Outstanding

log = logging.getLogger(__name__)

HOPELESS_S = 60.0
"""Servers that fail for so long in a row give readers no hope: as long as one read may take by default."""
_UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""The kernel expects no answer to these."""


class Failures:
    """Servers in a row that ended by themselves, soon after they had begun."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, status: int, began: float, healthy_s: float) -> None:
        """A server ended.

        Args:
            status: Its exit status; less than 0: it was killed, which says nothing of the next one.
            began: When it did, by ``time.monotonic``.
            healthy_s: One that lived so long has served.
        """
        if status < 0 or time.monotonic() - began >= healthy_s:
            self._since = None
        elif self._since is None:
            self._since = began

    @property
    def hopeless(self) -> bool:
        return self._since is not None and time.monotonic() - self._since >= HOPELESS_S


def is_gone(descriptor: int) -> bool:
    """Whether nothing is mounted any more."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def refuse_waiting(
    descriptor: int, outstanding: Outstanding, wake: int, pause_s: float, *, can_resend: bool
) -> None:
    """Answer EIO to all who wait and come, for so long, until ``wake`` is readable or nothing is mounted.

    Args:
        descriptor: The FUSE device. No server reads it meanwhile.
        outstanding: Where requests are read into.
        wake: A descriptor.
        pause_s: Seconds.
        can_resend: What the last server had read comes again when it is asked for.
    """
    refused = 0
    if can_resend:
        _write(descriptor, replies.encode_resend())
    else:
        for unique in outstanding.take_all():
            _write(descriptor, replies.encode_error(unique, errno.EIO))
    poll = select.poll()
    for each in (descriptor, wake):
        poll.register(each, select.POLLIN)
    ends = time.monotonic() + pause_s
    while (left_s := ends - time.monotonic()) > 0 and not is_gone(descriptor):
        ready = [fd for fd, _ in poll.poll(left_s * 1000)]
        if wake in ready:
            break
        if descriptor in ready:
            refused += _refuse_next(descriptor, outstanding)
    outstanding.clear()
    if refused:
        log.warning("%d requests failed with EIO: no server can begin", refused)


def _refuse_next(descriptor: int, outstanding: Outstanding) -> int:
    """Read one request and refuse it; returns how many were refused."""
    try:
        os.readv(descriptor, [outstanding.buffer])
    except OSError as e:  # who asked has given up; or it is gone, which the caller sees
        log.debug("no request: %s", e)
        return 0
    _length, opcode, unique, *_ = IN_HEADER.unpack_from(outstanding.buffer)
    if opcode in _UNANSWERED:
        return 0
    _write(descriptor, replies.encode_error(unique, errno.EIO))
    return 1


def _write(descriptor: int, message: bytes) -> None:
    try:
        os.write(descriptor, message)
    except OSError as e:  # nobody waits for it any more, or nothing is mounted
        log.debug("not taken: %s", e)
