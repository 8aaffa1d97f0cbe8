"""Which modules a compiled Python module imports when it is imported itself. Pure.

Read of a ``.pyc`` file: the code of the module, not that of its functions, which run later or never. Nothing
is unmarshalled into code objects and nothing is run, since the file is an image's and not to be trusted.
Sources: ``Python/marshal.c``, ``Lib/opcode.py`` and ``Lib/importlib/_bootstrap_external.py`` of CPython 3.8
to 3.13. Everything here is a hint for prefetching: what makes no sense is no import.
"""

from __future__ import annotations

from typing import NamedTuple

from cafs.core.python_import import MAX_IMPORTS, MAX_NAMES, Import

HEADER_BYTES = 16
_MAGIC_END = b"\r\n"
_MAX_DEPTH = 60
_MAX_ARGUMENT = 1 << 16


class _Version(NamedTuple):
    minor: int
    import_name: int
    load_const: int
    extended_arg: int
    local_sizes: bool
    """Code objects have the number of their locals, and three tuples of variables instead of a typed one."""


_VERSIONS = {
    3413: _Version(8, 108, 100, 144, True),
    3425: _Version(9, 108, 100, 144, True),
    3439: _Version(10, 108, 100, 144, True),
    3495: _Version(11, 108, 100, 144, False),
    3531: _Version(12, 108, 100, 144, False),
    3571: _Version(13, 75, 83, 71, False),
}
"""By the number that a file begins with, of each release's final form."""


def python_minor(head: bytes | memoryview) -> int | None:
    """11 for a module compiled by CPython 3.11; None for what is no compiled module that we can read."""
    if len(head) < HEADER_BYTES + 1 or head[2:4] != _MAGIC_END or head[HEADER_BYTES] & 0x7F != ord("c"):
        return None
    version = _VERSIONS.get(int.from_bytes(head[:2], "little"))
    return version.minor if version else None


def bytecode_imports(content: bytes) -> list[Import]:
    """What the module imports, in order; empty when it cannot be read."""
    if python_minor(content) is None:
        return []
    version = _VERSIONS[int.from_bytes(content[:2], "little")]
    try:
        module = _Objects(content, version.local_sizes).read(0)
    except (IndexError, ValueError):
        return []
    return _imports(module, version) if isinstance(module, _Code) else []


class _Code(NamedTuple):
    instructions: object
    constants: object
    names: object


def _imports(module: _Code, version: _Version) -> list[Import]:
    instructions, constants, names = module
    if not (isinstance(instructions, bytes) and isinstance(constants, list) and isinstance(names, list)):
        return []
    found, argument, loaded = [], 0, (0, 0)
    for place in range(0, len(instructions) - 1, 2):
        operation, argument = instructions[place], argument << 8 | instructions[place + 1]
        if operation == version.extended_arg and argument < _MAX_ARGUMENT:
            continue
        if operation == version.load_const:
            loaded = loaded[1], argument
        elif operation == version.import_name:
            found.append(_import(_item(names, argument), *(_item(constants, number) for number in loaded)))
            if len(found) == MAX_IMPORTS:
                break
        argument = 0
    return [one for one in found if one is not None]


def _import(module: object, level: object, names: object) -> Import | None:
    if not isinstance(module, bytes) or not isinstance(level, int):
        return None
    wanted = names[:MAX_NAMES] if isinstance(names, list) else []
    return Import(level, module, tuple(name for name in wanted if isinstance(name, bytes)))


def _item(values: list[object], number: int) -> object:
    return values[number] if number < len(values) else None


_NOTHING = {ord(kind): 0 for kind in "NTF.S0"} | {ord("g"): 8, ord("y"): 16}
"""Values of no interest, by their length."""
_SHORT_STRINGS = frozenset(b"zZ")
_STRINGS = frozenset(b"suaAt")
_LISTS = frozenset(b"([<>")


class _Objects:
    """Marshalled objects, read one after the other. Tuples and sets become lists, strings bytes."""

    def __init__(self, content: bytes, local_sizes: bool) -> None:
        self._content = content
        self._place = HEADER_BYTES
        self._kept: dict[int, object] = {}
        self._count = 0
        self._numbers = 6 if local_sizes else 5
        self._variables = 3 if local_sizes else 2

    def read(self, depth: int) -> object:
        """The next object. Raises IndexError or ValueError for what is none."""
        head = self._content[self._place]
        self._place += 1
        if head < 0x80:
            return self._body(head, depth)
        number = self._count
        self._count += 1
        value = self._kept[number] = self._body(head & 0x7F, depth)
        return value

    def _body(self, kind: int, depth: int) -> object:
        if kind in _SHORT_STRINGS:
            return self._bytes(self._byte())
        if kind == 0x72:  # r: an object that was read before
            return self._kept.get(self._number())
        if (size := _NOTHING.get(kind)) is not None:
            self._place += size
            return None
        if kind in _STRINGS:
            return self._bytes(self._number())
        if kind == 0x69:  # i
            return self._number()
        return self._compound(kind, depth + 1)

    def _compound(self, kind: int, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if kind == 0x29:  # ): a tuple of a few
            return [self.read(depth) for _ in range(self._byte())]
        if kind in _LISTS:
            return [self.read(depth) for _ in range(self._number())]
        if kind == 0x63:  # c
            return self._code(depth)
        if kind == 0x6C:  # l: so many digits of 15 bits
            digits = abs(self._number())
            self._place += 2 * digits
            return None
        raise ValueError(f"unknown kind {kind}")

    def _code(self, depth: int) -> _Code:
        self._place += 4 * self._numbers
        code = _Code(self.read(depth), self.read(depth), self.read(depth))
        for _ in range(self._variables + 2):  # variables, path, name
            self.read(depth)
        if self._numbers == 5:
            self.read(depth)  # qualified name
        self._place += 4
        for _ in range(1 if self._numbers == 6 else 2):  # lines, exceptions
            self.read(depth)
        return code

    def _byte(self) -> int:
        self._place += 1
        return self._content[self._place - 1]

    def _number(self) -> int:
        place = self._place
        self._place = place + 4
        return int.from_bytes(self._content[place : place + 4], "little", signed=True)

    def _bytes(self, size: int) -> bytes:
        place = self._place
        self._place = place + size
        if size < 0 or self._place > len(self._content):
            raise ValueError("cut off")
        return self._content[place : place + size]
