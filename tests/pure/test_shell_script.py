"""Which programs a script runs, by its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.shell_script import MAX_WORDS, is_shell, script_programs


@pytest.mark.parametrize(("script", "programs"), [
    (b"#!/bin/sh\nset -e\nname=$(cat /etc/hostname)\n", [b"set", b"cat", b"/etc/hostname"]),
    (b"exec setpriv --reuid=me \\\n   /usr/bin/server -D /data\n",
     [b"setpriv", b"/usr/bin/server", b"-D", b"/data"]),
    (b"LANG=C exec gosu user \"server\" $@\n", [b"gosu", b"user", b"server"]),
    (b"main() {\n  inside\n}\noutside\n", [b"outside"]),
    (b"function main() {\n  inside\n}\nif [ -e x ]; then run; fi\n", [b"run"]),
    (b"a | b && c || d; e & # f\n", [b"a", b"b", b"c", b"d", b"e"]),
    (b"# comment /bin/x\necho a#b\n", [b"echo"]),
    (b"first\n\0second\n", [b"first"]),
    (b"same\nsame\n", [b"same"]),
])  # fmt: skip
def test_scripts(script: bytes, programs: list[bytes]) -> None:
    assert [word for word in script_programs(script) if word != b"["] == programs


def test_shells() -> None:
    assert all(is_shell(name) for name in ("/bin/sh", "bash", "/usr/bin/dash", "/bin/busybox"))
    assert not any(is_shell(name) for name in ("/usr/bin/python3", "fish", "/bin/sh/x", ""))


def test_long_scripts() -> None:
    many = b"".join(b"program-%d\n" % number for number in range(1000))
    assert len(script_programs(many)) == MAX_WORDS


@given(st.binary(max_size=500))
def test_nothing_makes_it_fail(noise: bytes) -> None:
    assert all(word for word in script_programs(noise))
