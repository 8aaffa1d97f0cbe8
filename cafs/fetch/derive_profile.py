"""An access profile that is read of an image's own files: what a start of its entry point will read.

A program names its loader and libraries, a script its interpreter and programs, a Python module what it
imports (``core.elf``, ``core.shell_script``, ``core.python_bytecode``, ``core.python_source``). Following
these from the entry point on, in the order in which they are loaded, gives most of a recorded profile without
running anything. Files are taken whole, of programs what ``program_rows`` says and the code that by their
symbols is used (``used_code``). The same image gives the same profile.
Used when an image is converted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import trio

from cafs.core.digest import parse_digest
from cafs.core.elf import HEAD_BYTES, parse_elf, parse_interpreter
from cafs.core.profile import MAX_CHUNKS, PREFIX_BYTES, Profile
from cafs.core.python_bytecode import bytecode_imports
from cafs.core.python_extension import extension_imports
from cafs.core.python_import import Import
from cafs.core.python_source import source_imports
from cafs.core.shell_script import is_shell, script_programs
from cafs.fetch.elf_needs import Place, find_needed
from cafs.fetch.image_files import ImageFiles
from cafs.fetch.program_rows import plan_rows
from cafs.fetch.python_modules import Module
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.fetch.used_code import UsedCode
from cafs.oci.image import Entry

MAX_FILES = 4096
MAX_BYTES = 128 << 20
"""Compressed: five seconds of a link of 200 Mbit/s. What a longer profile names first is kept."""
MODULE_BYTES = 256 << 10
"""Larger modules are tables that import nothing."""
EXTENSION_BYTES = 16 << 20
_READ_DEADLINE_S = 30.0
_PYTHON = re.compile(rb"python3?(\.\d+)?")
_ALWAYS = (b"etc/ld.so.cache", b"etc/passwd", b"etc/group", b"etc/localtime")
"""Read by the loader, by the container's runtime for its user, and by whoever asks what time it is."""
_PROGRAMS = (
    (_PYTHON, b"usr/lib/locale/C.utf8/LC_CTYPE"),
    (_PYTHON, b"usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache"),
    (_PYTHON, b"usr/lib/aarch64-linux-gnu/gconv/gconv-modules.cache"),
)
_LIBRARIES = ((re.compile(rb"libcrypto\.so\.[\d.]+"), b"etc/ssl/openssl.cnf"),)
"""What programs and libraries of such names read when they begin."""


class _File(NamedTuple):
    place: Place
    path: bytes | None
    """If it was looked for by its path."""


async def derive_profile(
    service: ChunkService, files: ImageFiles, layers: Sequence[LayerReader], entry: Entry
) -> Profile:
    """The profile of an image; it names no chunk when nothing is known of the entry point.

    Args:
        service: Reads the image's files.
        files: Finds them.
        layers: The image's, lowest first.
        entry: What it runs.

    Raises:
        RemoteError, StorageError, IntegrityError: the files cannot be read.
    """
    rows = await _Derivation(service, files, entry).run()
    numbers = {layer: number for number, layer in reversed(list(enumerate(layers)))}
    names = [(numbers[layer], layer.ref(row).digest[:PREFIX_BYTES]) for layer, row in rows]
    return Profile(
        tuple(parse_digest(layer.name) for layer in layers),
        tuple(dict.fromkeys(names))[:MAX_CHUNKS],
        is_derived=True,
    )


class _Derivation:
    def __init__(self, service: ChunkService, files: ImageFiles, entry: Entry) -> None:
        self._service = service
        self._files = files
        self._entry = entry
        self._rows: dict[tuple[LayerReader, int], None] = {}
        """In the order of a start."""
        self._used = UsedCode(self._read)
        self._bytes = 0
        self._seen: set[Place] = set()
        self._waiting: list[_File | Module] = []
        """The next one last."""

    async def run(self) -> list[tuple[LayerReader, int]]:
        """The rows that a start reads, in its order."""
        await self._follow_all()
        rows, used = list(self._rows), self._used.found()
        for turn, layer, more in sorted(used, key=lambda one: one[0], reverse=True):
            rows[turn:turn] = [(layer, row) for row in more]
        return list(dict.fromkeys(rows))

    async def _follow_all(self) -> None:
        found = [_File(place, path) for path, place in self._files.entry(self._entry)]
        if found:
            always = [(path, self._files.file(path)) for path in _ALWAYS]
            self._wait_for([*(_File(place, path) for path, place in always if place), *found])
        while self._waiting and len(self._seen) < MAX_FILES and self._bytes < MAX_BYTES:
            one = self._waiting.pop()
            place = (one.layer, one.offset) if isinstance(one, Module) else one.place
            if place in self._seen:
                continue
            self._seen.add(place)
            if isinstance(one, _File):
                await self._follow_file(place, one.path)
            else:
                await self._follow_module(one)

    def _wait_for(self, files: Sequence[_File | Module]) -> None:
        """Before all others, in this order."""
        self._waiting += reversed(files)

    def _take(self, layer: LayerReader, rows: Sequence[int]) -> None:
        for row in rows:
            if (layer, row) not in self._rows:
                self._rows[layer, row] = None
                self._bytes += layer.ref(row).frame_bytes

    async def _follow_file(self, place: Place, path: bytes | None, *, is_used: bool = False) -> None:
        layer, offset = place
        head = await self._read(layer, offset, HEAD_BYTES)
        elf = parse_elf(head)
        if elf is None:
            self._take(layer, layer.rows_between(offset, offset + len(head)))
            self._follow_script(place, path, head)
            return
        plan = plan_rows(layer, offset, elf, is_used=is_used)
        self._take(layer, plan.rows)
        await self._used.note(place, head, elf, plan, turn=len(self._rows))
        needed: list[_File | Module] = []
        for name, found in await find_needed(self._read, place, elf, self._files):
            needed += [_File(found, None), *self._read_by(_LIBRARIES, name)]
        needed += self._read_by(_PROGRAMS, path or b"")
        if path is not None and _PYTHON.fullmatch(path.rpartition(b"/")[2]):
            needed += self._files.modules.of_interpreter(path, self._entry.words)
        self._wait_for(needed)

    def _read_by(self, begin: Sequence[tuple[re.Pattern[bytes], bytes]], path: bytes) -> list[_File]:
        paths = [read for name, read in begin if name.fullmatch(path.rpartition(b"/")[2])]
        return [_File(place, read) for read in paths if (place := self._files.file(read))]

    def _follow_script(self, place: Place, path: bytes | None, head: bytes) -> None:
        words = [word.decode(errors="surrogateescape") for word in parse_interpreter(head)]
        if words and words[0].endswith("/env") and len(words) > 1:
            words = words[1].split()
        names = words[:1]
        if words and is_shell(words[0]):
            names += [word.decode(errors="surrogateescape") for word in script_programs(head)]
        needed: list[_File | Module] = []
        for name in names:
            program = Entry((name,), self._entry.path, self._entry.folder)
            needed += [_File(where, found) for found, where in self._files.entry(program)]
        if path is not None and (path.endswith(b".py") or (words and "python" in words[0])):
            script = self._files.modules.script(path)
            if script is not None and (script.layer, script.offset) == place:
                self._seen.discard(place)  # seen as a file, not yet as a module
                needed.append(script)
        self._wait_for(needed)

    async def _follow_module(self, module: Module) -> None:
        before = len(self._waiting)
        if module.is_extension:
            await self._follow_file((module.layer, module.offset), None, is_used=True)
        else:
            self._take(module.layer, module.layer.rows_between(module.offset, module.offset + module.size))
        if module.size > (EXTENSION_BYTES if module.is_extension else MODULE_BYTES):
            return
        content = await self._read(module.layer, module.offset, module.size)
        imports = await trio.to_thread.run_sync(_read_imports, module, content)
        # Behind the libraries of an extension, which are waited for already.
        self._waiting[before:before] = reversed(self._files.modules.imported(module, imports))

    async def _read(self, layer: LayerReader, offset: int, size: int) -> bytes:
        return await self._service.peek(layer, offset, size, trio.current_time() + _READ_DEADLINE_S)


def _read_imports(module: Module, content: bytes) -> list[Import]:
    if module.is_extension:
        return extension_imports(content)
    return bytecode_imports(content) if module.is_bytecode else source_imports(content)
