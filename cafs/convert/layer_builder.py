"""One layer on its way: entries in, then the index file and the chunk blob.

Owned by one conversion thread. The rules that make a tree of entries are ``LayerTree``'s, where the
bytes go is ``DataRegion``'s; this joins them. What only the layers below can answer (hard links across
layers, directories that no entry describes) is settled in ``finish``.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from typing import BinaryIO

from cafs.convert.below import Below, LowerFile, LowerRun
from cafs.convert.compress import ChunkWriter
from cafs.convert.known_chunks import OWN_BLOB, KnownChunks
from cafs.convert.region import DataRegion, Fill
from cafs.convert.sparse import aligned_runs, fill_run
from cafs.core.chunking import ChunkingOptions
from cafs.core.entry import Extent, Meta
from cafs.core.erofs import OPAQUE_XATTR, OVERLAY_XATTRS, sparse_granularity
from cafs.core.paths import Effect, clean_path, parse_whiteout, show_path
from cafs.core.source import BlobRef
from cafs.core.tar import Entry
from cafs.core.tar_sparse import Runs
from cafs.errors import IntegrityError
from cafs.index.header import ChunkingOptions as IndexOptions
from cafs.index.header import IndexHeader
from cafs.index.scratch import Scratch
from cafs.index.tree import INLINE_MAX_BYTES, LayerTree
from cafs.index.writer import write_index


@dataclass(slots=True)
class LeftOut:
    """How many attributes of its files a layer was converted without."""

    overlay: int = 0
    """``trusted.overlay.*``: they would steer overlayfs."""
    text: int = 0
    """ACLs and labels in a form that only GNU tar and star unpack, see ``tar_pax.text_attributes``."""


@dataclass(frozen=True, slots=True)
class _LinkDown:
    """A hard link to what only the layers below have, or what a later entry brings."""

    target: bytes
    before: int | None
    """The inode that its path had in this layer then: with another one, a later entry took its place."""
    through: bool
    """Its target is such a link itself."""


@dataclass(frozen=True, slots=True)
class FinishedLayer:
    """What ``LayerBuilder.finish`` made."""

    header: IndexHeader
    chunks: BlobRef | None
    """The layer's own chunk blob."""
    other_blobs: tuple[BlobRef, ...]
    """Chunk blobs of other layers that the chunk table refers to."""


class LayerBuilder:
    """Takes entries in the order of the layer."""

    def __init__(
        self, writer: ChunkWriter, known: KnownChunks, options: ChunkingOptions, scratch: Scratch
    ) -> None:
        self._tree = LayerTree(scratch)
        self._writer = writer
        self._known = known
        self._options = options
        self._region = DataRegion(writer, options, scratch)
        self._links: dict[bytes, _LinkDown] = {}
        """By path, in order: hard links to what this layer did not have when they came."""
        self.left_out = LeftOut()

    def add(self, entry: Entry, fill: Fill) -> None:
        """One entry.

        Args:
            entry: As the layer has it.
            fill: Gives the stored bytes of a regular file in order.

        Raises:
            IntegrityError, UsageError: the entry cannot be; the message names it.
        """
        effect, path = parse_whiteout(clean_path(entry.name))
        if effect is Effect.ADD:
            self.add_literally(path, entry, fill)
        elif effect is Effect.WHITEOUT:
            self._tree.whiteout(path)
        elif effect is Effect.OPAQUE:
            self._tree.opaque(path)

    def add_literally(self, path: bytes, entry: Entry, fill: Fill) -> None:
        """One entry at a clean path, whose name means nothing but itself."""
        self.left_out.text += entry.text_attributes
        if entry.is_hard_link:
            self._link(path, clean_path(entry.link, is_link_target=True))
        else:
            self._add(path, entry, self._own_xattrs(entry.meta), fill)

    def finish(
        self, index: BinaryIO, diff_id: bytes, below: Below | None, parent_chain_id: bytes | None
    ) -> FinishedLayer:
        """Write the index. ``parent_chain_id`` is recorded only if something was taken from below."""
        follows = self._resolve_links(below)
        follows = self._describe_implied(below) or follows
        self._region.finish()
        chunks = self._writer.finish()
        rows = self._blob_rows(chunks)
        blobs = list(rows.values())
        row_of = {known: row for row, known in enumerate(rows)}
        options = self._options
        header = write_index(
            index,
            self._tree,
            self._writer.rows(row_of.__getitem__),
            blobs,
            data_bytes=self._region.used_bytes,
            diff_id=diff_id,
            options=IndexOptions(options.min_bytes, options.avg_bytes, options.max_bytes, options.level),
            parent_chain_id=parent_chain_id if follows else None,
        )
        return FinishedLayer(header, chunks, tuple(blob for known, blob in rows.items() if known != OWN_BLOB))

    @property
    def needs_below(self) -> bool:
        """Whether ``finish`` has to ask the layers below."""
        return bool(self._links) or next(self._tree.implied_directories(), None) is not None

    def _link(self, path: bytes, target: bytes) -> None:
        if not self._tree.link(path, target):
            self._links.pop(path, None)  # the last one counts, in its turn
            self._links[path] = _LinkDown(target, self._inode_at(path), through=target in self._links)

    def _inode_at(self, path: bytes) -> int | None:
        """What this layer itself has there."""
        node = self._tree.lookup(path)
        return None if node is None or node.is_whiteout else node.inode

    def _add(self, path: bytes, entry: Entry, meta: Meta, fill: Fill) -> None:
        kind, size = stat.S_IFMT(meta.mode), entry.size
        if kind == stat.S_IFDIR:
            self._tree.add_directory(path, meta)
        elif kind == stat.S_IFLNK:
            # Linux gives every symlink these bits, whatever an archive says.
            self._tree.add_symlink(path, replace(meta, mode=stat.S_IFLNK | 0o777), entry.link)
        elif kind != stat.S_IFREG:
            self._tree.add_node(path, meta)
        elif entry.runs is not None:
            self._add_sparse(path, meta, size, entry.runs, fill)
        elif size <= INLINE_MAX_BYTES:
            content = bytearray(size)
            fill(memoryview(content))
            self._tree.add_file(path, meta, size, content=bytes(content))
        else:
            offset = self._region.add_file(size, fill)
            self._tree.add_file(path, meta, size, [Extent(0, offset, size)])

    def _add_sparse(self, path: bytes, meta: Meta, size: int, runs: Runs, fill: Fill) -> None:
        granularity = sparse_granularity(size)
        extents = []
        for start, end, parts in aligned_runs(runs, size, granularity):
            offset = self._region.add_aligned(end - start, fill_run(start, parts, fill), granularity)
            extents.append(Extent(start, offset, end - start))
        self._tree.add_file(path, meta, size, extents)

    def _own_xattrs(self, meta: Meta) -> Meta:
        kept = tuple(pair for pair in meta.xattrs if not pair[0].startswith(OVERLAY_XATTRS))
        self.left_out.overlay += len(meta.xattrs) - len(kept)
        return meta if len(kept) == len(meta.xattrs) else replace(meta, xattrs=kept)

    def _resolve_links(self, below: Below | None) -> bool:
        taken: dict[bytes, bytes] = {}
        """Where in this layer now is what lower layers have at a path."""
        for path, link in self._links.items():
            target = link.target
            if self._inode_at(path) != link.before:
                continue
            found = below.file(target) if below and not link.through else None
            if target in taken:
                self._tree.link(path, taken[target])
            elif found is not None:
                # What later entries removed or replaced stays so: only the link leads to what was there.
                taken[target] = place = path if self._hides(target) else target
                self._copy_up(place, found)
                self._tree.link(path, place)
                self._link_other_names(below, target, place)
            elif not self._tree.link(path, target):
                raise IntegrityError(
                    f"{show_path(path)}: hard link to {show_path(target)}, which is nowhere in the image"
                )
        return bool(self._links)

    def _link_other_names(self, below: Below | None, target: bytes, place: bytes) -> None:
        """The other names of a lower file must go on being names of the same one."""
        for name in below.other_names(target) if below else ():
            if not self._hides(name):
                self._tree.link(name, place)

    def _hides(self, path: bytes) -> bool:
        """Whether this layer shows something else at ``path`` than the layers below, or nothing."""
        if self._tree.lookup(path) is not None:
            return True
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            node = self._tree.lookup(b"/".join(parts[:depth]))
            if node is None:
                return False
            if not stat.S_ISDIR(node.meta.mode) or OPAQUE_XATTR in node.meta.xattrs:
                return True
        return False

    def _copy_up(self, path: bytes, file: LowerFile) -> None:
        kind = stat.S_IFMT(file.meta.mode)
        if kind == stat.S_IFLNK:
            self._tree.add_symlink(path, file.meta, file.content or b"")
        elif kind != stat.S_IFREG:
            self._tree.add_node(path, file.meta)
        elif file.content is not None:
            self._tree.add_file(path, file.meta, file.size, content=file.content)
        else:
            extents = [self._extent_of(run) for run in file.runs]
            self._tree.add_file(path, file.meta, file.size, extents)

    def _extent_of(self, run: LowerRun) -> Extent:
        numbers = []
        for ref, blob in run.chunks:
            number = self._known.find(ref.digest)
            if number is None:
                place = self._known.blob_number(blob)
                number = self._known.add(ref.digest, place, ref.offset, ref.frame_bytes, ref.codec)
            numbers.append((number, ref.plain_bytes))
        return Extent(run.file_offset, self._region.add_chunks(numbers) + run.skip, run.length)

    def _describe_implied(self, below: Below | None) -> bool:
        """Directories that no entry described keep what the layers below say of them."""
        taken = False
        for path in list(self._tree.implied_directories()):
            meta = below.directory(path) if below else None
            if meta is not None:
                self._tree.add_directory(path, meta)
                taken = True
        return taken

    def _blob_rows(self, own: BlobRef | None) -> dict[int, BlobRef]:
        """The blob table by the numbers of ``KnownChunks``: the own blob, then those really referred to."""
        used = self._writer.blobs_used()
        others = enumerate(self._known.blobs, OWN_BLOB + 1)
        rows = {OWN_BLOB: own} if own is not None else {}
        return rows | {number: blob for number, blob in others if number in used}
