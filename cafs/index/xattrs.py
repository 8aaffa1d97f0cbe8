"""Parses the xattr body of an EROFS inode; used by the reader and by ``check_index``."""

from __future__ import annotations

from cafs.core.erofs import XATTR_ENTRY, XATTR_HEADER_BYTES, join_xattr_name
from cafs.errors import IntegrityError


def parse_xattrs(body: bytes, where: str) -> tuple[tuple[bytes, bytes], ...]:
    """(full name, value) of every xattr.

    Raises:
        IntegrityError: damaged, or of a kind that CAFS does not write; ``where`` names the inode.
    """
    if len(body) < XATTR_HEADER_BYTES or any(body[:XATTR_HEADER_BYTES]):
        raise IntegrityError(f"{where} has shared or filtered xattrs")
    pairs = []
    at = XATTR_HEADER_BYTES
    while at < len(body):
        name_len, index, value_size = XATTR_ENTRY.unpack_from(body, at)
        value_at = at + XATTR_ENTRY.size + name_len
        end = value_at + value_size
        name = join_xattr_name(index, body[at + XATTR_ENTRY.size : value_at])
        if name is None or end > len(body) or b"\0" in name:
            raise IntegrityError(f"{where} has a damaged xattr (name index {index})")
        pairs.append((name, body[value_at:end]))
        at = -(-end // 4) * 4
    if len({name for name, _ in pairs}) != len(pairs):
        raise IntegrityError(f"{where} has an xattr twice")
    return tuple(pairs)
