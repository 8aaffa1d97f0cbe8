"""What tells leaks apart reads the names of all mounts of the machine, those of tests beside this one too."""

from __future__ import annotations

import os

from tests.support.leaks import mount_points


def test_mounts_may_have_any_name() -> None:
    names = [b"/tmp/a", b"/tmp/\xff", "/tmp/\x85\x0b\u2028ü".encode(), b"/tmp/a\\040b\\134c\\012"]
    lines = b"".join(b"36 35 98:0 / %s rw,noatime - tmpfs none rw\n" % name for name in names)
    found = [os.fsencode(point) for point in mount_points(lines)]
    assert found == [*names[:3], b"/tmp/a b\\c\n"]
