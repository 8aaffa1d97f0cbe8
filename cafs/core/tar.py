"""Tar as a pure parser: blocks in, entries out. No I/O, bounded memory.

Used by ``cafs.convert.tar_reader``. ``TarParser.feed`` takes what the parser asked for last: one
block, or the payload of an extension header. It answers with a ``Need`` of more, an ``Entry`` (whose
data the caller consumes before it feeds the next block) or ``END``. The parser believes nothing that
decides how much is allocated: extension payloads and sparse maps are bounded.

What it makes of odd types: hard links carry no data whatever their size says, as GNU tar, Go and
Python hold; volume labels and global headers give no entry; GNU dump directories are directories;
anything unknown is an error, because the tools that unpack images refuse it too.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import Enum

from cafs.core import tar_pax, tar_sparse
from cafs.core.entry import Meta
from cafs.core.tar_header import BLOCK_BYTES, EXTENSION_KINDS, ZERO_BLOCK, Header, parse_header
from cafs.core.tar_sparse import Runs
from cafs.errors import IntegrityError

MAX_EXTENSION_BYTES = 1 << 20
"""Of one long name or PAX header; Go's archive/tar has the same bound."""
MAX_ID = (1 << 32) - 1

_TYPES = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"1": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"D": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_HEADER_ONLY = frozenset(b"123456"[i : i + 1] for i in range(6))
"""Whatever size these state, no data follows."""
_SKIPPED = frozenset((b"V",))


@dataclass(frozen=True, slots=True)
class Need:
    """The parser wants exactly so many bytes next (then padding to a block, when it is a payload)."""

    size: int
    payload: bool


class End(Enum):
    """The archive is over."""

    END = 0


END = End.END


@dataclass(slots=True)
class Entry:
    """One member of the archive."""

    name: bytes
    """As written, not yet checked (``cafs.core.paths``)."""
    meta: Meta
    size: int
    """Of the file, with its holes; 0 for everything else."""
    stored_bytes: int
    """That follow in the archive, padded there to a block."""
    link: bytes
    """Target of a symlink or hard link."""
    is_hard_link: bool
    runs: Runs | None
    """Of a sparse file; the stored bytes are these runs."""
    map_in_data: bool
    """PAX 1.0: the stored bytes begin with the map, see ``SparseMapReader``."""
    text_attributes: int = 0
    """Of these, ``meta`` has nothing; see ``tar_pax.text_attributes``."""


class TarParser:
    """Gathers extension headers and joins them with the header they describe."""

    def __init__(self) -> None:
        self._globals: dict[bytes, bytes] = {}
        self._local: list[tuple[bytes, bytes]] = []
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._payload_of: bytes = b""
        self._old_sparse: tuple[Header, list[tuple[int, int]]] | None = None
        self._saw_zero_block = False

    def feed(self, data: bytes) -> Need | Entry | End:
        """Take what was needed.

        Raises:
            IntegrityError: this is not a tar, or one that lies or goes beyond the bounds.
        """
        if self._payload_of:
            self._take_payload(data)
            return _BLOCK
        if self._old_sparse is not None:
            return self._continue_old_sparse(data)
        if data == ZERO_BLOCK:
            if self._saw_zero_block:
                return END
            self._saw_zero_block = True
            return _BLOCK
        if self._saw_zero_block:
            raise IntegrityError("tar with a lone block of zeros between its entries")
        return self._take_header(parse_header(data))

    def finish(self) -> None:
        """The input ended where a block was needed.

        Raises:
            IntegrityError: that was within an entry's headers.
        """
        if self._payload_of or self._old_sparse or self._local or self._long_name or self._long_link:
            raise IntegrityError("tar that ends within the headers of an entry: it is truncated")

    def _take_header(self, header: Header) -> Need | Entry | End:
        kind = header.kind
        if kind in EXTENSION_KINDS:
            if not 0 <= header.size <= MAX_EXTENSION_BYTES:
                raise IntegrityError(
                    f"tar extension header of {header.size} bytes, at most {MAX_EXTENSION_BYTES} are accepted"
                )
            self._payload_of = kind
            if header.size == 0:
                self._take_payload(b"")
                return _BLOCK
            return Need(header.size, payload=True)
        if kind == b"S":
            runs, more = tar_sparse.old_gnu_runs(header.block, extension=False)
            if more:
                self._old_sparse = (header, runs)
                return _BLOCK
            return self._entry(header, runs)
        if kind in _SKIPPED:
            self._forget_extensions()
            return _BLOCK
        return self._entry(header, None)

    def _take_payload(self, payload: bytes) -> None:
        kind, self._payload_of = self._payload_of, b""
        if kind == b"L":
            self._long_name = payload.partition(b"\0")[0]
        elif kind == b"K":
            self._long_link = payload.partition(b"\0")[0]
        elif kind == b"g":
            for key, value in tar_pax.parse_records(payload):
                _set_or_delete(self._globals, key, value)
            if sum(len(k) + len(v) for k, v in self._globals.items()) > MAX_EXTENSION_BYTES:
                raise IntegrityError("tar whose global pax headers grow beyond the bound")
        else:
            self._local = tar_pax.parse_records(payload)

    def _continue_old_sparse(self, block: bytes) -> Need | Entry:
        assert self._old_sparse is not None
        header, runs = self._old_sparse
        found, more = tar_sparse.old_gnu_runs(block, extension=True)
        runs.extend(found)
        if len(runs) > tar_sparse.MAX_RUNS:
            raise IntegrityError(f"sparse map of more than {tar_sparse.MAX_RUNS} runs")
        if more:
            return _BLOCK
        self._old_sparse = None
        return self._entry(header, runs)

    def _entry(self, header: Header, old_runs: list[tuple[int, int]] | None) -> Entry:
        records = dict(self._globals)
        for key, value in self._local:
            _set_or_delete(records, key, value)
        name = records.get(b"path") or self._long_name or header.name
        link = records.get(b"linkpath") or self._long_link or header.link
        local, self._local = self._local, []
        self._forget_extensions()
        try:
            meta = _meta(header, records, name)
            size = _stored_size(header, records)
            entry = Entry(name, meta, size, size, link, header.kind == b"1", None, map_in_data=False)
            entry.text_attributes = tar_pax.text_attributes(records) if records else 0
            if not stat.S_ISREG(meta.mode):
                entry.size = 0
            elif old_runs is not None:
                entry.size = tar_sparse.old_gnu_real_size(header.block)
                entry.runs = tar_sparse.check_runs(old_runs, entry.size, size)
            elif b"GNU.sparse.major" in records or any(k.startswith(b"GNU.sparse.") for k, _ in local):
                _apply_pax_sparse(entry, records, local)
        except IntegrityError as e:
            raise IntegrityError(f"{_show(name)}: {e}") from e
        return entry

    def _forget_extensions(self) -> None:
        self._local, self._long_name, self._long_link = [], None, None


_BLOCK = Need(BLOCK_BYTES, payload=False)
FIRST_NEED = _BLOCK
"""What a new parser wants."""


def _show(name: bytes) -> str:
    return name[:200].decode(errors="backslashreplace")


def _set_or_delete(records: dict[bytes, bytes], key: bytes, value: bytes) -> None:
    """An empty value takes back what a global header set."""
    if value or key.startswith((tar_pax.SCHILY_XATTR, tar_pax.LIBARCHIVE_XATTR)):
        records[key] = value
    else:
        records.pop(key, None)


def _stored_size(header: Header, records: dict[bytes, bytes]) -> int:
    if header.kind in _HEADER_ONLY:
        return 0
    size = tar_pax.decimal(records[b"size"], "size") if b"size" in records else header.size
    if size < 0:
        raise IntegrityError(f"negative size {size}")
    return size


def _meta(header: Header, records: dict[bytes, bytes], name: bytes) -> Meta:
    file_type = _TYPES.get(header.kind)
    if file_type is None:
        raise IntegrityError(f"entry of unknown type {header.kind!r}")
    if header.kind == b"\0" and name.endswith(b"/"):
        file_type = stat.S_IFDIR  # how v7 wrote directories
    uid = tar_pax.decimal(records[b"uid"], "uid") if b"uid" in records else header.uid
    gid = tar_pax.decimal(records[b"gid"], "gid") if b"gid" in records else header.gid
    if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
        raise IntegrityError(f"owner {uid}:{gid} does not fit 32 bits")
    mtime = records.get(b"mtime")
    attributes = tar_pax.xattrs(records) if len(records) > (mtime is not None) else {}
    return Meta(
        mode=file_type | (header.mode & 0o7777),
        uid=uid,
        gid=gid,
        mtime_ns=tar_pax.time_ns(mtime) if mtime is not None else header.mtime_s * 10**9,
        rdev=_device(header.device),
        xattrs=tuple(sorted(attributes.items())),
    )


def _device(device: tuple[int, int]) -> int:
    """``os.makedev`` of glibc, without its limits depending on the machine."""
    major, minor = device
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise IntegrityError(f"device number {major}:{minor} does not fit Linux's 12 and 20 bits")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def _apply_pax_sparse(entry: Entry, records: dict[bytes, bytes], local: list[tuple[bytes, bytes]]) -> None:
    entry.name = records.get(b"GNU.sparse.name") or entry.name
    size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
    if records.get(b"GNU.sparse.major") == b"1" and records.get(b"GNU.sparse.minor", b"0") == b"0":
        entry.map_in_data = True
    runs = None if entry.map_in_data else tar_sparse.pax_runs(local)
    if size is None or (runs is None and not entry.map_in_data):
        raise IntegrityError("sparse file in a format that is not known")
    entry.size = tar_pax.decimal(size, "GNU.sparse.size")
    if runs is not None:
        entry.runs = tar_sparse.check_runs(runs, entry.size, entry.stored_bytes)
