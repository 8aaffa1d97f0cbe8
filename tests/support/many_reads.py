"""Very many reads of one file at the same time, without a thread for each: Linux's native asynchronous I/O.

Run as ``python -m tests.support.many_reads FILE COUNT``: asks COUNT times for the file's first page, as the
kernel's EROFS asks (direct and asynchronous), prints ``asked``, and when all have come ``came``. Exits with 1
when one had an error.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys

SETUP, GETEVENTS, SUBMIT = (0, 4, 2) if platform.machine() == "aarch64" else (206, 208, 209)
_libc = ctypes.CDLL(None, use_errno=True)


class Iocb(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, little endian; opcode 0 is PREAD."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("more_flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class IoEvent(ctypes.Structure):
    """struct io_event."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("object", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


def main(path: str, count: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    memory = ctypes.c_char.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
    page = ctypes.addressof(memory)
    context = ctypes.c_ulong(0)
    _call(SETUP, count, ctypes.byref(context))
    asked = [Iocb(descriptor=descriptor, buffer=page, size=mmap.PAGESIZE) for _ in range(count)]
    for one in asked:
        _call(SUBMIT, context, ctypes.c_long(1), (ctypes.POINTER(Iocb) * 1)(ctypes.pointer(one)))
    print("asked", flush=True)
    events = (IoEvent * count)()
    came = 0
    while came < count:
        came += _call(
            GETEVENTS, context, 1, ctypes.c_long(count - came), ctypes.byref(events, came * 32), None
        )
    print("came", flush=True)
    return int(any(event.result <= 0 for event in events))


def _call(*arguments: object) -> int:
    result: int = _libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
