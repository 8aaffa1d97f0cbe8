"""The tar parser against the standard library's writer, and against archives that lie."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import IntegrityError
from tests.support.tars import make_tar, member, plain_stream, read_entries

NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=120
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
MODES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from([*MODES, tarfile.LNKTYPE]))
    content = draw(st.binary(max_size=2000)) if kind == tarfile.REGTYPE else b""
    more: dict[str, object] = {
        "mode": draw(st.integers(0, 0o7777)),
        "uid": draw(st.integers(0, 2**32 - 1)),
        "gid": draw(st.integers(0, 2**32 - 1)),
        "mtime": draw(st.integers(-(2**40), 2**40)),
    }
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        more["linkname"] = draw(PATHS)
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        more |= {"devmajor": draw(st.integers(0, 4095)), "devminor": draw(st.integers(0, 2**20 - 1))}
    return member(draw(PATHS), kind, content, **more)


@given(
    st.lists(members(), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 3000),
)
def test_reads_what_tarfile_writes(made: list[tuple[tarfile.TarInfo, bytes]], form: int, piece: int) -> None:
    read = read_entries(make_tar(*made, form=form), piece)
    assert len(read) == len(made)
    for (info, content), (entry, data) in zip(made, read, strict=True):
        assert entry.name.rstrip(b"/") == info.name.encode(errors="surrogateescape").rstrip(b"/")
        assert data == content
        assert (entry.meta.uid, entry.meta.gid, entry.meta.mtime_ns) == (
            info.uid,
            info.gid,
            info.mtime * 10**9,
        )
        assert entry.is_hard_link == (info.type == tarfile.LNKTYPE)
        if not entry.is_hard_link:
            assert entry.meta.mode == MODES[info.type] | info.mode
        if info.linkname:
            assert entry.link == info.linkname.encode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("-1.5", -1_500_000_000),
        ("-0.000000001", -1),
        ("12", 12_000_000_000),
        ("3.1", 3_100_000_000),
    ],
)
def test_times_keep_their_nanoseconds(text: str, nanoseconds: int) -> None:
    archive = make_tar(member("f", pax_headers={"mtime": text}))
    assert read_entries(archive)[0][0].meta.mtime_ns == nanoseconds


def test_xattrs_of_any_bytes() -> None:
    value = b"\x01\x00\x00\x02\xff\xfe=\n\x00"
    record = b" SCHILY.xattr.security.capability=" + value + b"\n"
    size = len(record) + 2
    body = str(size).encode() + record
    assert len(body) == size
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    archive = header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512) + make_tar(member("f"))
    assert read_entries(archive)[0][0].meta.xattrs == ((b"security.capability", value),)


def test_the_last_global_header_holds() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "77"}) as tar:
        tar.addfile(tarfile.TarInfo("f"))
    assert read_entries(file.getvalue())[0][0].meta.uid == 77


@given(st.data())
def test_a_damaged_archive_gives_entries_or_one_kind_of_error(data: st.DataObject) -> None:
    archive = bytearray(
        make_tar(member("a", content=b"x" * 700), member("b" * 150), member("c", tarfile.DIRTYPE))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_entries(bytes(archive))
    except IntegrityError:
        return


@pytest.mark.parametrize("cut", range(0, 2561, 32))
def test_an_archive_ends_between_entries_or_is_truncated(cut: int) -> None:
    """Its blocks of zeros and the padding before them may be missing: ``umoci insert`` writes neither."""
    archive = make_tar(member("a", content=b"x" * 700), member("b", content=b"y" * 32))
    whole = [0, *range(512 + 704, 1536 + 1, 32), *range(2048 + 32, 2560 + 1, 32)]
    if cut in whole:
        assert [entry.name for entry, _ in read_entries(archive[:cut])] == [b"a", b"b"][: (cut + 511) // 1024]
    else:
        with pytest.raises(IntegrityError, match="truncated"):
            read_entries(archive[:cut])


def test_an_archive_that_ends_behind_an_extension_header_is_truncated() -> None:
    archive = make_tar(member("a" * 300), form=tarfile.GNU_FORMAT)
    for cut in (512, 1024):
        with pytest.raises(IntegrityError, match="truncated"):
            read_entries(archive[:cut])


def test_an_extension_header_cannot_fill_the_memory() -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(IntegrityError, match="extension header"):
        read_entries(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_what_is_no_tar_is_refused() -> None:
    with pytest.raises(IntegrityError):
        read_entries(b"#!/bin/sh\necho no tar at all\n" * 100)


PLAIN = b"".join(b"%d\n" % n for n in range(20_000))


@pytest.mark.parametrize(
    "packed",
    [
        PLAIN,
        gzip.compress(PLAIN),
        gzip.compress(PLAIN[:5000]) + gzip.compress(PLAIN[5000:]),
        gzip.compress(PLAIN) + bytes(512),
        zstandard.compress(PLAIN),
        zstandard.compress(PLAIN[:5000]) + zstandard.compress(PLAIN[5000:]),
    ],
    ids=["plain", "gzip", "gzip members", "gzip padded", "zstd", "zstd frames"],
)
@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_every_compression_in_any_pieces(packed: bytes, piece: int) -> None:
    stream = plain_stream(packed, piece)
    assert stream.read(10) == PLAIN[:10]
    stream.skip(90)
    view = bytearray(50)
    stream.fill(memoryview(view))
    assert view == PLAIN[100:150]
    assert stream.read(1 << 30) == PLAIN[150:]


def test_a_truncated_or_damaged_gzip_is_refused() -> None:
    packed = gzip.compress(PLAIN)
    with pytest.raises(IntegrityError, match="truncated"):
        plain_stream(packed[:-9], 1000).drain()
    broken = packed[:2000] + bytes(20) + packed[2020:]
    with pytest.raises(IntegrityError, match="damaged"):
        plain_stream(broken, 1000).drain()


@pytest.mark.parametrize("size", [1, 1000])
def test_what_follows_a_gzip_and_is_none_is_told(size: int) -> None:
    with pytest.raises(IntegrityError, match="what follows"):
        plain_stream(gzip.compress(PLAIN[:5000]) + bytes(9) + b"junk", size).drain()


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_another_compression_is_named(pack: Callable[[bytes], bytes], size: int) -> None:
    with pytest.raises(IntegrityError, match=r"compressed with (xz|bzip2), and only gzip and zstd are read"):
        plain_stream(pack(PLAIN[:5000]), size).drain()


@pytest.mark.parametrize("name", [b"\xfd7zXZ", b"BZh9"])
def test_a_name_that_begins_as_another_compression_does_is_a_name(name: bytes) -> None:
    tar = make_tar(member(os.fsdecode(name), content=b"x"), form=tarfile.USTAR_FORMAT)
    assert [entry.name for entry, _ in read_entries(tar)] == [name]


def test_a_damaged_zstd_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN)
    with pytest.raises(IntegrityError, match="damaged"):
        plain_stream(packed[:2000] + bytes(20) + packed[2020:], 1000).drain()


SKIPPABLE_FRAME = b"\x5e\x2a\x4d\x18" + (300).to_bytes(4, "little") + b"x" * 300


@pytest.mark.parametrize("size", [0, 1, 1000, 400_000])
@pytest.mark.parametrize("options", [{}, {"write_checksum": True, "write_content_size": False}])
@pytest.mark.parametrize("content", [os.urandom, bytes, lambda size: PLAIN * (size // 100_000)])
def test_a_zstd_stream_that_breaks_off_is_refused(
    size: int, options: dict[str, bool], content: Callable[[int], bytes]
) -> None:
    """Wherever it does, but between frames; even where no more would come out of it."""
    first = zstandard.ZstdCompressor(**options).compress(content(size))
    packed = SKIPPABLE_FRAME + first + zstandard.compress(b"and more")
    ends = {len(SKIPPABLE_FRAME), len(SKIPPABLE_FRAME + first), len(packed)}
    cuts = {end + by for end in ends for by in range(-20, 21)} | set(range(10, len(packed), 30_011))
    for cut in sorted(cut for cut in cuts if 4 <= cut <= len(packed)):
        if cut in ends:
            plain_stream(packed[:cut], 1000).drain()
        else:
            with pytest.raises(IntegrityError, match=r"truncated|damaged"):
                plain_stream(packed[:cut], 1000).drain()


def test_a_bomb_is_handed_on_in_small_pieces() -> None:
    bomb = zstandard.compress(bytes(300 << 20))
    stream = plain_stream(bomb, len(bomb))
    view = memoryview(bytearray(1 << 20))
    for _ in range(300):
        stream.fill(view)
    assert stream.read(1) == b""
