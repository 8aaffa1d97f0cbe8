"""Finds programs, libraries and the entry point in the tree of an image whose layers are being served.

Used by ``image_start`` for ``Programs``. It reads indexes that are verified but perhaps not checked yet:
through ``MergedTree``, which believes nothing. A look-up takes some ten microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cafs.core.erofs import BLOCK_BYTES
from cafs.errors import CafsError
from cafs.fetch.elf_needs import Place
from cafs.fetch.python_modules import PythonModules
from cafs.fetch.reader import LayerReader
from cafs.index.browse import resolve
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import MergedTree
from cafs.index.reader import ErofsReader
from cafs.oci.image import Entry

_LIBRARIES = (b"lib", b"usr/lib", b"lib64", b"usr/lib64", b"usr/local/lib")
_TRIPLETS = (b"x86_64-linux-gnu", b"aarch64-linux-gnu")
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_ARGUMENTS = 16


class ImageFiles:
    """The files of one image. A ``Finder``."""

    def __init__(self, layers: Sequence[tuple[LayerIndex, LayerReader]]) -> None:
        """``layers`` are the image's, lowest first."""
        self._tree = MergedTree([ErofsReader(index.metadata, index.virtual_bytes) for index, _ in layers])
        self._readers = [reader for _, reader in layers]
        self.modules = PythonModules(self._tree, self._readers)
        self._folders = [
            place + b"/" + triplet for triplet in _TRIPLETS for place in (b"usr/lib", b"lib")
        ] + list(_LIBRARIES)

    def library(self, name: bytes) -> Place | None:
        """See ``Finder``: by path, or in the folders that every system's loader looks into."""
        if b"/" in name:
            return self.file(name)
        return next(self._found(folder + b"/" + name for folder in self._folders), None)

    def file(self, path: bytes) -> Place | None:
        """See ``Finder``."""
        return next(self._found([path]), None)

    def entry(self, entry: Entry) -> list[tuple[bytes, Place]]:
        """The program that a container of this image runs, and those of its arguments that are files.

        Returns:
            Path and place of each.
        """
        folders = (entry.path or _USUAL_PATH).split(":")
        places = []
        for number, word in enumerate(entry.words[:_MAX_ARGUMENTS]):
            paths = [word] if word.startswith("/") else [f"{entry.folder}/{word}"]
            if "/" not in word:
                # Of arguments too: an entry point that is a script often runs what follows it.
                paths = [f"{folder}/{word}" for folder in folders] + (paths if number else [])
            encoded = (path.encode(errors="surrogateescape") for path in paths)
            found = next(((path, place) for path in encoded for place in self._found([path])), None)
            if found is not None:
                places.append(found)
        return places

    def _found(self, paths: Iterator[bytes] | Sequence[bytes]) -> Iterator[Place]:
        for path in paths:
            try:
                top = resolve(self._tree, path, follow_last=True)[0]
                extents = self._tree.reader(top.layer).extents(top.nid)
            except CafsError:
                continue
            if not isinstance(extents, bytes) and extents and extents[0][0] == 0:
                begin = extents[0][1]
                if begin % BLOCK_BYTES == 0:
                    yield self._readers[top.layer], begin
