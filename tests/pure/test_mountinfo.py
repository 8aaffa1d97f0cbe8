"""The kernel's list of mounts: names may hold any byte but NUL."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from cafs.fuse.mountinfo import Mount, parse_mounts

NAMES = st.binary(min_size=1, max_size=20).map(lambda name: b"/" + name.replace(b"\0", b""))


def escaped(name: bytes) -> bytes:
    """As ``mangle_path`` of the kernel does."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=4))
def test_any_name_is_read(names: list[tuple[bytes, bytes]]) -> None:
    lines = [
        b"%d 1 0:%d / %s rw,nosuid shared:1 master:2 - fuse.cafs %s rw,user_id=0\n"
        % (number, number, escaped(point), escaped(source))
        for number, (point, source) in enumerate(names)
    ]
    expected = [
        Mount(f"0:{number}", os.fsdecode(point), "fuse.cafs", os.fsdecode(source))
        for number, (point, source) in enumerate(names)
    ]
    assert parse_mounts(b"".join(lines)) == expected
