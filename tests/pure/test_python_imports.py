"""What a Python module imports is read of its bytecode, or of its source, without running or parsing it."""

from __future__ import annotations

import importlib.util
import marshal
import py_compile
import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.python_bytecode import HEADER_BYTES, bytecode_imports, python_minor
from cafs.core.python_extension import MAX_NAMES, extension_imports
from cafs.core.python_import import MAX_IMPORTS, Import
from cafs.core.python_source import source_imports

MODULE = """\
\"\"\"Says import nothing, from nowhere import it.\"\"\"
import os, a.b as c  # and import d
from . import e, f as g
from ..h.i import (
    j,  # import k
    l as m,
)
try:
    import n
except ImportError:
    from o import p
if True:
    from q import *
NUMBERS = (1.5, 2j, 10**40, -3, "ä" * 300, b"x" * 300, frozenset({"r", "s"}), ..., None)

def function(s=lambda: 0):
    import t
    return os, t

class Class:
    u: int = 5
    def method(self):
        from v import w
        return w, os
from last import line"""
IMPORTS = [
    Import(0, b"os"),
    Import(0, b"a.b"),
    Import(1, b"", (b"e", b"f")),
    Import(2, b"h.i", (b"j", b"l")),
    Import(0, b"n"),
    Import(0, b"o", (b"p",)),
    Import(0, b"q", (b"*",)),
    Import(0, b"last", (b"line",)),
]


def compiled(source: str, folder: Path) -> bytes:
    path = folder / "module.py"
    path.write_text(source)
    return Path(py_compile.compile(str(path), doraise=True) or "").read_bytes()


def test_bytecode(tmp_path: Path) -> None:
    content = compiled(MODULE, tmp_path)
    assert bytecode_imports(content) == IMPORTS
    assert python_minor(content) is not None


def test_source() -> None:
    listed = [name._replace(names=()) if name.module == b"q" else name for name in IMPORTS]
    assert source_imports(MODULE.encode()) == listed
    assert source_imports(MODULE.replace("\n", "\r\n").encode())[:2] == IMPORTS[:2]


@pytest.mark.parametrize("name", ["asyncio/base_events.py", "typing.py", "email/message.py", "decimal.py"])
def test_both_agree_on_the_standard_library(tmp_path: Path, name: str) -> None:
    source = (Path(sysconfig.get_path("stdlib")) / name).read_text()
    in_bytecode = {(one.level, one.module) for one in bytecode_imports(compiled(source, tmp_path))}
    in_source = {(one.level, one.module) for one in source_imports(source.encode())}
    assert in_bytecode == in_source
    assert in_bytecode


def test_many_names_need_longer_instructions(tmp_path: Path) -> None:
    source = "".join(f"x{n} = {n}\n" for n in range(400)) + "import last"
    assert bytecode_imports(compiled(source, tmp_path)) == [Import(0, b"last")]
    source = "".join(f"import x{n}\n" for n in range(400))
    assert len(bytecode_imports(compiled(source, tmp_path))) == MAX_IMPORTS
    assert len(source_imports(source.encode())) == MAX_IMPORTS


def test_other_versions_and_other_files_have_none(tmp_path: Path) -> None:
    content = compiled("import os", tmp_path)
    for number in (3413, 3425, 3439):  # their code has another shape
        other = number.to_bytes(2, "little") + content[2:]
        assert python_minor(other) in {8, 9, 10}
        assert bytecode_imports(other) == []
    unknown = (1).to_bytes(2, "little") + content[2:]
    assert python_minor(unknown) is None
    assert bytecode_imports(unknown) == []
    for short in (b"", content[:HEADER_BYTES], b"\x7fELF" + bytes(100)):
        assert python_minor(short) is None
        assert bytecode_imports(short) == []
    assert bytecode_imports(content[:HEADER_BYTES] + marshal.dumps("no code")) == []


@given(st.data())
def test_damaged_bytecode_is_no_crash(data: st.DataObject) -> None:
    header = importlib.util.MAGIC_NUMBER + bytes(12)
    content = bytearray(header + marshal.dumps(compile(MODULE, "/x/module.py", "exec")))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(HEADER_BYTES, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for one in bytecode_imports(bytes(content)) + bytecode_imports(bytes(content[:cut])):
        assert isinstance(one.module, bytes)


@given(st.binary(max_size=300))
def test_any_bytes_as_marshalled_data(body: bytes) -> None:
    bytecode_imports(importlib.util.MAGIC_NUMBER + bytes(12) + b"\xe3" + body)
    source_imports(body)


@pytest.mark.parametrize(
    "line",
    [b"from " + b"." * 250_000, b"from " + b" " * 250_000, b"from x import (\n" * 16_000, b"\t" * 250_000],
)
def test_nothing_is_slow_to_match(line: bytes) -> None:
    began = time.process_time()
    source_imports(line)
    assert time.process_time() - began < 5


def test_nesting_has_a_bound() -> None:
    header = importlib.util.MAGIC_NUMBER + bytes(12)
    assert bytecode_imports(header + b"\xe3" + bytes(20) + b")\x01" * 100_000) == []


def test_names_in_an_extension() -> None:
    content = (
        b"\x7fELF\0secrets\0numpy.random._common\0Not_one\0has space\0secrets\0x\0" + b"y" * 100 + b"\0last"
    )
    assert [one.module for one in extension_imports(content)] == [b"secrets", b"numpy.random._common", b"x"]


def test_an_extension_with_too_many_names_has_a_bound() -> None:
    content = b"\0".join(b"n%d" % number for number in range(MAX_NAMES + 100))
    assert len(extension_imports(content)) == MAX_NAMES
