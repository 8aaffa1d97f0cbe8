"""Tells whether the value of a ``system.posix_acl_*`` attribute is an ACL. Pure.

Its form is the kernel's (``include/uapi/linux/posix_acl_xattr.h``): a version, u32, then entries of tag
u16, permissions u16 and id u32, all little-endian.
"""

from __future__ import annotations

import struct

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_TAGS = frozenset((0x01, 0x02, 0x04, 0x08, 0x10, 0x20))
"""Owner, user, owning group, group, mask, others."""


def is_acl(value: bytes) -> bool:
    """Whether the kernel reads it. With any other value, an empty one too, FUSE lets nobody open the file."""
    entries = value[len(_VERSION) :]
    if not value.startswith(_VERSION) or len(entries) % _ENTRY.size:
        return False
    return all(tag in _TAGS for tag, _, _ in _ENTRY.iter_unpack(entries))
