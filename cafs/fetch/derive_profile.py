"""An access profile that is read of an image's own files: what a start of its entry point will read.

A program names its loader and libraries, a script its interpreter, a Python module what it imports
(``core.elf``, ``core.python_bytecode``, ``core.python_source``). Following these from the entry point on, in
the order in which they are loaded, gives most of a recorded profile without running anything. Files are taken
whole, of large programs all but their code. The same image gives the same profile.
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
from cafs.fetch.elf_needs import Place, find_needed
from cafs.fetch.image_files import ImageFiles
from cafs.fetch.programs import plan_rows
from cafs.fetch.python_modules import Module
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.oci.image import Entry

MAX_FILES = 4096
MAX_BYTES = 128 << 20
"""Compressed: five seconds of a link of 200 Mbit/s. What a longer profile names first is kept."""
MODULE_BYTES = 256 << 10
"""Larger modules are tables that import nothing."""
EXTENSION_BYTES = 16 << 20
_READ_DEADLINE_S = 30.0
_PYTHON = re.compile(rb"python3?(\.\d+)?")
_ALWAYS = (b"etc/ld.so.cache", b"etc/passwd", b"etc/group")
"""Read by the loader, and by the container's runtime for its user."""


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
    derivation = _Derivation(service, files, entry)
    await derivation.run()
    numbers = {layer: number for number, layer in reversed(list(enumerate(layers)))}
    names = [(numbers[layer], layer.ref(row).digest[:PREFIX_BYTES]) for layer, row in derivation.rows]
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
        self.rows: dict[tuple[LayerReader, int], None] = {}
        """In the order of a start."""
        self._bytes = 0
        self._seen: set[Place] = set()
        self._waiting: list[_File | Module] = []
        """The next one last."""

    async def run(self) -> None:
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
            if (layer, row) not in self.rows:
                self.rows[layer, row] = None
                self._bytes += layer.ref(row).frame_bytes

    async def _follow_file(self, place: Place, path: bytes | None) -> None:
        layer, offset = place
        head = await self._read(layer, offset, HEAD_BYTES)
        elf = parse_elf(head)
        if elf is None:
            self._take(layer, layer.rows_between(offset, offset + len(head)))
            self._follow_script(place, path, parse_interpreter(head))
            return
        self._take(layer, plan_rows(layer, offset, elf))
        needed: list[_File | Module] = [
            _File(found, None) for found in await find_needed(self._read, place, elf, self._files)
        ]
        if path is not None and _PYTHON.fullmatch(path.rpartition(b"/")[2]):
            needed += self._files.modules.of_interpreter(path, self._entry.words)
        self._wait_for(needed)

    def _follow_script(self, place: Place, path: bytes | None, line: Sequence[bytes]) -> None:
        needed: list[_File | Module] = []
        words = [word.decode(errors="surrogateescape") for word in line]
        if words and words[0].endswith("/env") and len(words) > 1:
            words = words[1].split()
        for found, where in self._files.entry(Entry(tuple(words[:1]), self._entry.path, "/")):
            needed.append(_File(where, found))
        if path is not None and (path.endswith(b".py") or (words and "python" in words[0])):
            script = self._files.modules.script(path)
            if script is not None and (script.layer, script.offset) == place:
                self._seen.discard(place)  # seen as a file, not yet as a module
                needed.append(script)
        self._wait_for(needed)

    async def _follow_module(self, module: Module) -> None:
        before = len(self._waiting)
        if module.is_extension:
            await self._follow_file((module.layer, module.offset), None)
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
