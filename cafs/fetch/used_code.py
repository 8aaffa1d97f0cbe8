"""Which code of libraries is used, as far as their symbols say it.

Whoever needs a library may call three functions of it or three hundred. Of code in which most chunks hold a
function that another file of the start wants, a start ran four fifths (OpenSSL, ICU); of other code it mostly
ran little more than constructors. Used by ``derive_profile``, which reads all of a start's programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cafs.core.elf import Elf
from cafs.core.elf_symbols import Symbols, parse_sections_place, parse_symbol_tables, parse_symbols
from cafs.fetch.elf_needs import Place, Read
from cafs.fetch.program_rows import Later, ProgramRows
from cafs.fetch.reader import LayerReader

USED_SHARE = 0.6
"""Of the chunks of some code: if so many hold functions that are wanted, all of it is used."""


class _Library(NamedTuple):
    turn: int
    layer: LayerReader
    later: Sequence[Later]
    function_rows: dict[bytes, int]
    wanted: frozenset[bytes]


class UsedCode:
    """Gathers the programs and libraries of a start."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._wanted: set[bytes] = set()
        self._libraries: list[_Library] = []

    async def note(self, place: Place, head: bytes, elf: Elf, plan: ProgramRows, turn: int) -> None:
        """A file that a start loads.

        Args:
            place: Where it begins.
            head: Its first bytes.
            elf: What they say.
            plan: Which rows of it are fetched.
            turn: Given back by ``found``.
        """
        symbols = await self._symbols(place, head)
        if symbols is None:
            return
        if plan.later:
            rows = _function_rows(place, elf, symbols)
            self._libraries.append(_Library(turn, place[0], plan.later, rows, symbols.wanted))
        if not plan.later or plan.is_large:
            self._wanted |= symbols.wanted

    def found(self) -> list[tuple[int, LayerReader, Sequence[int]]]:
        """(turn, layer, rows) of code that is used, by the files that were noted.

        What a library wants counts once it is used itself.
        """
        wanted, used = set(self._wanted), dict[tuple[int, int], _Library]()
        size = -1
        while len(used) > size:
            size = len(used)
            for number, library in enumerate(self._libraries):
                rows = {row for name, row in library.function_rows.items() if name in wanted}
                for part, later in enumerate(library.later):
                    if len(rows.intersection(later.signs)) >= USED_SHARE * len(later.signs):
                        used[number, part] = library
                        wanted |= library.wanted
        return [(one.turn, one.layer, one.later[part].rows) for (_, part), one in used.items()]

    async def _symbols(self, place: Place, head: bytes) -> Symbols | None:
        layer, offset = place
        sections = parse_sections_place(head)
        if sections is None:
            return None
        tables = parse_symbol_tables(await self._read(layer, offset + sections.offset, sections.size))
        if tables is None:
            return None
        symbols, names = [await self._read(layer, offset + table.offset, table.size) for table in tables]
        return parse_symbols(symbols, names)


def _function_rows(place: Place, elf: Elf, symbols: Symbols) -> dict[bytes, int]:
    """In which row each function begins."""
    layer, offset = place
    rows: dict[bytes, int] = {}
    for name, address in symbols.functions.items():
        begin = elf.offset_of(address)
        if begin is not None:
            for row in layer.rows_between(offset + begin, offset + begin + 1):
                rows[name] = row
    return rows
