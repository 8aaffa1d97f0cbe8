"""Finds the modules that Python code of an image imports, as the image's own interpreter would.

Used by ``derive_profile``. Where an interpreter looks is told by where it lies, and by the folders that are
usual (``site`` of the standard library). Reads indexes through ``MergedTree``, which believes nothing.
Folders are read once and kept.
"""

from __future__ import annotations

import itertools
import re
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cafs.core.erofs import BLOCK_BYTES
from cafs.core.python_import import Import
from cafs.errors import CafsError
from cafs.fetch.reader import LayerReader
from cafs.index.browse import resolve
from cafs.index.merge import MergedTree, Stack

_MAX_FOLDER_BYTES = 128 << 10
"""Some 4,000 names, read in a few milliseconds. What is larger holds no modules."""
_MAX_FOLDERS = 1024
_MAX_LEVEL = 32
_USUAL_PREFIXES = (b"usr/local", b"usr")
_EXTENSIONS = (
    b".cpython-3%d-x86_64-linux-gnu.so",
    b".cpython-3%d-aarch64-linux-gnu.so",
    b".abi3.so",
    b".so",
)
_FROZEN = frozenset(
    b"abc codecs io _collections_abc _sitebuiltins genericpath ntpath posixpath os site stat runpy "
    b"importlib._bootstrap importlib._bootstrap_external importlib.util importlib.machinery".split()
)
"""Built into the interpreter since 3.11 (``Python/frozen.c``)."""
_FROZEN_SINCE = 11
_AT_START = tuple(
    b"encodings codecs encodings.aliases encodings.utf_8 io abc site os stat posixpath genericpath "
    b"_collections_abc sitecustomize".split()
)
"""Imported before the program, in this order; most are built in since 3.11."""


class Module(NamedTuple):
    """A module's file."""

    layer: LayerReader
    offset: int
    """Where it begins in the layer's virtual image."""
    size: int
    folder: bytes
    """Of the package that it is in, or is."""
    name: bytes
    """Of the file."""
    minor: int
    """Of the Python version that reads it: 11 for 3.11."""

    @property
    def is_bytecode(self) -> bool:
        """A compiled module."""
        return self.name.endswith(b".pyc")

    @property
    def is_extension(self) -> bool:
        """A library: its imports are not to be seen."""
        return self.name.endswith(b".so")


class PythonModules:
    """The Python modules of one image."""

    def __init__(self, tree: MergedTree, readers: Sequence[LayerReader]) -> None:
        """``readers`` are the tree's layers, lowest first."""
        self._tree = tree
        self._readers = tuple(readers)
        self._entries_of: dict[bytes, dict[bytes, Stack]] = {}
        self._script_folders: list[bytes] = []
        self._prefixes = list(_USUAL_PREFIXES)
        self._absolute: dict[tuple[int, bytes], list[Module]] = {}

    def script(self, path: bytes) -> Module | None:
        """A source file that is run; its folder is the first that it imports from."""
        folder, _, name = path.strip(b"/").rpartition(b"/")
        minor = self._usual_minor()
        if minor is None:
            return None
        if folder not in self._script_folders:
            self._script_folders.append(folder)
            self._absolute.clear()
        return self._file(folder, name, folder, minor)

    def imported(self, module: Module, imports: Iterable[Import]) -> list[Module]:
        """The modules that these statements of a module need, each once."""
        found: dict[Module, None] = {}
        for one in imports:
            if one.level:
                parts = module.folder.split(b"/")
                if one.level <= min(len(parts), _MAX_LEVEL):
                    base = b"/".join(parts[: len(parts) + 1 - one.level])
                    found |= dict.fromkeys(self._in_package(base, one.module, one.names, module.minor))
            else:
                found |= dict.fromkeys(self._anywhere(one, module.minor))
        return list(found)

    def of_interpreter(self, path: bytes, options: Sequence[str]) -> list[Module]:
        """What every start of the interpreter imports, and the module that ``-m`` in its options names."""
        prefix = (
            path.strip(b"/").removesuffix(b"/" + path.rpartition(b"/")[2]).removesuffix(b"bin").strip(b"/")
        )
        if prefix not in self._prefixes:
            self._prefixes.insert(0, prefix)
            self._absolute.clear()
        minor = self._usual_minor()
        if minor is None:
            return []
        imports = [Import(0, name) for name in _AT_START]
        for option, name in itertools.pairwise(options):
            if option == "-m":
                imports.append(Import(0, name.encode(errors="surrogateescape"), (b"__main__",)))
        return list(dict.fromkeys(found for one in imports for found in self._anywhere(one, minor)))

    def _anywhere(self, wanted: Import, minor: int) -> list[Module]:
        if wanted.module in _FROZEN and minor >= _FROZEN_SINCE:
            return []
        key = minor, wanted.module
        if key not in self._absolute:
            self._absolute[key] = self._first_found(wanted.module, minor)
        found = self._absolute[key]
        if wanted.names and found and found[-1].name.startswith(b"__init__."):
            inside = found[-1].folder
            return found + [one for name in wanted.names for one in self._dotted(inside, name, minor)]
        return found

    def _first_found(self, dotted: bytes, minor: int) -> list[Module]:
        for folder in self._search_path(minor):
            found = self._dotted(folder, dotted, minor)
            if found:
                return found
        return []

    def _in_package(self, folder: bytes, dotted: bytes, names: Iterable[bytes], minor: int) -> list[Module]:
        found = self._dotted(folder, dotted, minor) if dotted else []
        inside = folder + b"/" + dotted.replace(b".", b"/") if dotted else folder
        return found + [one for name in names for one in self._dotted(inside, name, minor)]

    def _dotted(self, folder: bytes, dotted: bytes, minor: int) -> list[Module]:
        """The packages and the module of a dotted name that begins in this folder."""
        found: list[Module] = []
        for name in dotted.split(b"."):
            inside = folder + b"/" + name
            module = None
            if name in self._entries(folder):
                module = self._module(inside, b"__init__", minor)
            module = module or self._module(folder, name, minor)
            if module is None:
                break
            found.append(module)
            folder = inside
        return found

    def _module(self, folder: bytes, name: bytes, minor: int) -> Module | None:
        entries = self._entries(folder)
        for pattern in _EXTENSIONS:
            library = name + (pattern % minor if b"%" in pattern else pattern)
            if library in entries:
                return self._file(folder, library, folder, minor)
        if name + b".py" not in entries:
            return None
        cached = b"%s.cpython-3%d.pyc" % (name, minor)
        return self._file(folder + b"/__pycache__", cached, folder, minor) or self._file(
            folder, name + b".py", folder, minor
        )

    def _file(self, folder: bytes, name: bytes, package: bytes, minor: int) -> Module | None:
        stack = self._entries(folder).get(name)
        if stack is None:
            return None
        try:
            if stat.S_ISLNK(self._tree.inode(stack).meta.mode):
                stack = resolve(self._tree, folder + b"/" + name, follow_last=True)
            reader = self._tree.reader(stack[0].layer)
            size, extents = reader.inode(stack[0].nid).size, reader.extents(stack[0].nid)
        except CafsError:
            return None
        if isinstance(extents, bytes) or len(extents) != 1 or extents[0][0] or extents[0][1] % BLOCK_BYTES:
            return None
        return Module(self._readers[stack[0].layer], extents[0][1], size, package, name, minor)

    def _entries(self, folder: bytes) -> dict[bytes, Stack]:
        """What a folder holds; nothing when there is no such folder."""
        entries = self._entries_of.get(folder)
        if entries is None:
            if len(self._entries_of) >= _MAX_FOLDERS:
                self._entries_of.clear()
            try:
                stack = resolve(self._tree, folder, follow_last=True)
                size = sum(self._tree.reader(part.layer).inode(part.nid).size for part in stack)
                entries = dict(self._tree.children(stack)) if size <= _MAX_FOLDER_BYTES else {}
            except CafsError:
                entries = {}
            self._entries_of[folder] = entries
        return entries

    def _search_path(self, minor: int) -> list[bytes]:
        """``sys.path``: the standard library before what was installed."""
        folders = list(self._script_folders)
        for prefix in self._prefixes:
            home = prefix + b"/lib/python3.%d" % minor if prefix else b"lib/python3.%d" % minor
            folders += [home, home + b"/lib-dynload", home + b"/site-packages", home + b"/dist-packages"]
        return [*folders, b"usr/lib/python3/dist-packages"]

    def _usual_minor(self) -> int | None:
        """Of the newest Python in the usual folders; a local one goes first."""
        for prefix in self._prefixes:
            names = self._entries(prefix + b"/lib")
            minors = [int(name[8:]) for name in names if re.fullmatch(rb"python3\.\d{1,3}", name)]
            minors = [
                minor
                for minor in minors
                if self._module(b"%s/lib/python3.%d" % (prefix, minor), b"os", minor)
            ]
            if minors:
                return max(minors)
        return None
