"""PAX extended header records: ``LENGTH KEY=VALUE\\n``, and the values CAFS takes from them.

Used by ``cafs.core.tar``. Keys and values stay bytes: names need not be UTF-8, whatever hdrcharset
says. Sources: POSIX.1-2017 pax, "pax Extended Header"; star and libarchive for the xattr keys.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from cafs.core.tar_header import MAX_NUMBER
from cafs.errors import IntegrityError

SCHILY_XATTR = b"SCHILY.xattr."
LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_TEXT_ATTRIBUTES = (b"SCHILY.acl.", b"RHT.security.selinux")
"""What GNU tar and star write for --acls and --selinux."""
_LENGTH_DIGITS = 10
_DECIMAL = re.compile(rb"-?[0-9]{1,20}")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")


def parse_records(payload: bytes) -> list[tuple[bytes, bytes]]:
    """Split the payload of an ``x`` or ``g`` header into (key, value), in order.

    Raises:
        IntegrityError: a record's length does not fit, or it has no key.
    """
    records = []
    at, end = 0, len(payload)
    while at < end:
        if payload[at] == 0 and not payload[at:].strip(b"\0"):
            break  # some writers count the padding in
        space = payload.find(b" ", at, at + _LENGTH_DIGITS + 1)
        digits = payload[at : max(space, at)]
        if not digits.isdigit():
            raise IntegrityError("pax record without a length")
        stop = at + int(digits)
        if not space < stop <= end or payload[stop - 1] != 0x0A:
            raise IntegrityError("pax record whose length is wrong")
        key, equals, value = payload[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise IntegrityError("pax record without a key")
        records.append((key, value))
        at = stop
    return records


def decimal(value: bytes, key: str) -> int:
    """A decimal integer of at most 63 bits.

    Raises:
        IntegrityError: it is not one.
    """
    if not _DECIMAL.fullmatch(value) or not -MAX_NUMBER <= (number := int(value)) <= MAX_NUMBER:
        raise IntegrityError(f"pax record {key} is not a number: {value[:40]!r}")
    return number


def time_ns(value: bytes) -> int:
    """Seconds with a fraction, exactly, in nanoseconds; finer digits are cut off.

    Raises:
        IntegrityError: it is not a time.
    """
    match = _TIME.fullmatch(value)
    if match is None:
        raise IntegrityError(f"pax record mtime is not a time: {value[:40]!r}")
    sign, seconds, fraction = match.groups()
    ns = int(seconds) * 10**9 + int(((fraction or b"") + b"0" * 9)[:9])
    return -ns if sign else ns


def xattrs(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The extended attributes among ``records``; star's keys win over libarchive's.

    Raises:
        IntegrityError: a libarchive value is not base64.
    """
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(LIBARCHIVE_XATTR):
            name = unquote_to_bytes(key[len(LIBARCHIVE_XATTR) :])
            found.setdefault(name, _base64(value))
        elif key.startswith(SCHILY_XATTR):
            found[key[len(SCHILY_XATTR) :]] = value
    return found


def text_attributes(records: dict[bytes, bytes]) -> int:
    """How many of ``records`` are ACLs and labels as text. They name users of the machine that packed, and
    what unpacks images (umoci, containerd, docker) leaves them out; ACLs of images are xattrs."""
    return sum(key.startswith(_TEXT_ATTRIBUTES) for key in records)


def _base64(value: bytes) -> bytes:
    """libarchive leaves the padding out."""
    try:
        return binascii.a2b_base64(
            value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), strict_mode=True
        )
    except binascii.Error as e:
        raise IntegrityError(f"pax record with an xattr that is not base64: {e}") from e
