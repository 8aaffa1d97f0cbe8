"""Programs of a few bytes for amd64, which tell by their exit code what they may: the shells that are at hand
lay down rights that they were given by set-id bits.
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADERS = 64 + 56
_EXIT = bytes.fromhex("89c7 b83c000000 0f05")  # mov edi,eax; mov eax,60; syscall


def _program(code: bytes) -> bytes:
    """An ELF executable of one segment (elf(5))."""
    size = _HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


EFFECTIVE_UID = _program(bytes.fromhex("b86b000000 0f05") + _EXIT)
"""Its exit code is geteuid()."""
EFFECTIVE_GID = _program(bytes.fromhex("b86c000000 0f05") + _EXIT)
"""Its exit code is getegid()."""
RAW_SOCKET = _program(
    # socket(AF_PACKET, SOCK_RAW, 0); shr eax,31
    bytes.fromhex("bf11000000 be03000000 31d2 b829000000 0f05 c1e81f") + _EXIT
)
"""Its exit code is 0 when it may open a raw socket, which takes CAP_NET_RAW, else 1."""
