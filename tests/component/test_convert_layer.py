"""One layer converted without a repository: what becomes of its entries, and always the same."""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cafs.convert.below import Below
from cafs.convert.plain_stream import decompressed
from cafs.core.chunking import ChunkingOptions
from cafs.core.erofs import OPAQUE_XATTR
from cafs.errors import IntegrityError
from cafs.index.browse import walk
from cafs.index.merge import MergedTree
from cafs.index.reader import ErofsReader
from tests.support.tars import Made, convert_tar, make_tar, member

OPTIONS = ChunkingOptions()


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def directory(name: str, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, mode=0o755, **more)


def hard_link(name: str, target: str, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, linkname=target, **more)


# -- determinism -----------------------------------------------------------------------------------------


def mixed_tree(count: int = 300) -> bytes:
    """Small, large, equal, empty and incompressible files."""
    rng = random.Random(7)
    members = [directory("d")]
    for n in range(count):
        size = rng.choice([0, 10, 500, 5000, 70_000, 300_000 if n % 10 == 0 else 100])
        text = b"".join(b"line %d of %d\n" % (i, rng.randrange(9)) for i in range(size // 12))
        members.append(member(f"d/{n:04}", content=text if n % 3 else noise(size, n % 5)))
    return make_tar(*members)


def test_the_same_bytes_whatever_the_threads_and_pieces(tmp_path: Path) -> None:
    archive = mixed_tree()
    first = convert_tar(archive, tmp_path / "1", workers=1, piece=1 << 20)
    for n, (workers, piece) in enumerate([(2, 4096), (7, 100_003)]):
        again = convert_tar(archive, tmp_path / f"again{n}", workers=workers, piece=piece)
        assert again.index_file == first.index_file
        assert again.blob == first.blob


def test_a_pinned_layer_keeps_its_bytes(tmp_path: Path) -> None:
    """Output that changes needs a new WRITER_VERSION: others reuse conversions by it."""
    text = b"".join(b"%d\n" % n for n in range(100_000))
    made = convert_tar(
        make_tar(directory("d"), member("d/a", content=text), member("d/b", content=text[:999])), tmp_path
    )
    assert hashlib.sha256(made.blob).hexdigest() == PINNED_BLOB
    assert hashlib.sha256(made.index_file).hexdigest() == PINNED_INDEX


PINNED_BLOB = "16d3e87b48ae568db3a6e8112760b9ea0e2ed0835747ec20d6e7629fda192cf0"
PINNED_INDEX = "36f80a1c31814a0a852780c205d4afdc0f16894bc6ff42c31da386619b7157b1"


# -- contents --------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 65, 4096, 4097, 100_000, 131_072, 600_000, 5_000_000]), st.integers(0, 2)
        ),
        max_size=14,
    )
)
def test_contents_come_back_and_equal_files_share(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[int, int]]
) -> None:
    contents = [noise(size, seed) if size < 5_000_000 else noise(500_000, seed) * 10 for size, seed in files]
    made = convert_tar(
        make_tar(*(member(f"f{n}", content=content) for n, content in enumerate(contents))),
        tmp_path_factory.mktemp("layer"),
    )
    places: dict[bytes, object] = {}
    for n, content in enumerate(contents):
        assert made.content(b"f%d" % n) == content
        runs = made.reader.extents(made.nid(b"f%d" % n))
        assert places.setdefault(content, runs) == runs
    stored = sum(len(c) + -len(c) % 4096 for c in set(contents) if len(c) > 64)
    assert made.index.header.data_bytes == stored


def test_an_inserted_small_file_changes_few_chunks(tmp_path: Path) -> None:
    files = [member(f"d/{n:05}", content=noise(3000, n)) for n in range(2000)]
    before = convert_tar(make_tar(*files), tmp_path / "before")
    after = convert_tar(
        make_tar(*files[:1000], member("d/00999x", content=noise(3000, 10**6)), *files[1000:]),
        tmp_path / "after",
    )
    known = {row_digest(before, n) for n in range(len(before.index.table))}
    fresh = [row_digest(after, n) for n in range(len(after.index.table)) if row_digest(after, n) not in known]
    assert 1 <= len(fresh) <= 3


def row_digest(made: Made, row: int) -> bytes:
    return made.index.table.row(row).digest


# -- entries ---------------------------------------------------------------------------------------------


def test_the_last_of_duplicates_wins(tmp_path: Path) -> None:
    made = convert_tar(
        make_tar(
            member("./a", content=b"old" * 100),
            directory("./d"),
            member("d/x", content=b"1"),
            member("a", content=b"new" * 100),
            member("d", content=b"no longer a directory"),
        ),
        tmp_path,
    )
    assert made.content(b"a") == b"new" * 100
    assert made.content(b"d") == b"no longer a directory"


def test_whiteouts_and_aufs_bookkeeping(tmp_path: Path) -> None:
    made = convert_tar(
        make_tar(
            directory("d"),
            member("e/.wh.gone"),
            member("d/.wh..wh..opq"),
            directory(".wh..wh.plnk"),
            member(".wh..wh.plnk/1.2", content=b"x"),
            member(".wh..wh.aufs"),
        ),
        tmp_path,
    )
    reader = made.reader
    gone = reader.inode(made.nid(b"e/gone"))
    assert (stat.S_IFMT(gone.meta.mode), gone.meta.rdev) == (stat.S_IFCHR, 0)
    assert OPAQUE_XATTR in reader.inode(made.nid(b"d")).meta.xattrs
    names = {name for name, _, _ in reader.entries(reader.root_nid)}
    assert names - {b".", b".."} == {b"d", b"e"}


def test_overlay_xattrs_of_the_layer_are_left_out(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "1"}
    made = convert_tar(make_tar(directory("d", pax_headers=pax)), tmp_path)
    assert made.reader.inode(made.nid(b"d")).meta.xattrs == ((b"user.kept", b"1"),)


def test_attributes_in_gnu_tars_own_form_are_left_out(tmp_path: Path) -> None:
    text = {"SCHILY.acl.access": "user::rw-\nuser:me:rw-\n", "RHT.security.selinux": "u:r:t:s0\0"}
    acl = bytes.fromhex("02000000")
    kept = {"SCHILY.xattr.system.posix_acl_access": acl.decode()}
    with_text = convert_tar(make_tar(member("f", pax_headers=text | kept)), tmp_path / "with")
    without = convert_tar(make_tar(member("f", pax_headers=kept)), tmp_path / "without")
    assert with_text.reader.inode(with_text.nid(b"f")) == without.reader.inode(without.nid(b"f"))
    assert without.reader.inode(without.nid(b"f")).meta.xattrs == ((b"system.posix_acl_access", acl),)


def test_hard_links_also_with_a_size(tmp_path: Path) -> None:
    made = convert_tar(
        make_tar(member("a", content=b"x" * 500), hard_link("./b", "./a"), hard_link("c", "/a")), tmp_path
    )
    assert made.nid(b"a") == made.nid(b"b") == made.nid(b"c")
    assert made.reader.inode(made.nid(b"a")).nlink == 3


# -- lower layers ----------------------------------------------------------------------------------------


def test_links_and_parents_from_below(tmp_path: Path) -> None:
    large, small = noise(700_000), b"small" * 100
    lower = convert_tar(
        make_tar(
            directory("etc", uid=5, mtime=77),
            member("etc/large", content=large, uid=3),
            member("etc/small", content=small),
            member("etc/tiny", content=b"t"),
        ),
        tmp_path / "lower",
    )
    upper_tar = make_tar(
        member("etc/new", content=b"n" * 100),
        hard_link("l", "etc/large"),
        hard_link("s", "etc/small"),
        hard_link("t", "etc/tiny"),
    )
    upper = convert_tar(upper_tar, tmp_path / "upper", below=Below([lower.index]))
    assert upper.reader.inode(upper.nid(b"etc")).meta.uid == 5
    assert upper.reader.inode(upper.nid(b"etc")).meta.mtime_ns == 77 * 10**9
    assert upper.nid(b"l") == upper.nid(b"etc/large")
    assert upper.reader.inode(upper.nid(b"l")).nlink == 2
    assert upper.content(b"t") == b"t"
    assert lower.index.blobs[0] in upper.index.blobs
    assert upper.index.header.parent_chain_id is not None
    assert len(upper.blob) < 1000, "bytes of the lower layer were stored again"
    for path, content in ((b"l", large), (b"s", small)):
        assert content_from(upper, {lower.index.blobs[0].digest: lower.blob}, path) == content


def test_all_names_of_a_lower_file_stay_names_of_one_file(tmp_path: Path) -> None:
    lower = make_tar(
        directory("d"),
        member("d/a", content=b"x" * 500),
        hard_link("d/b", "d/a"),
        hard_link("c", "d/a"),
        directory("gone"),
        hard_link("gone/e", "d/a"),
        hard_link("replaced", "d/a"),
    )
    below = Below([convert_tar(lower, tmp_path / "lower").index])
    upper = make_tar(hard_link("new", "d/b"), member(".wh.gone"), member("replaced", content=b"r"))
    made = convert_tar(upper, tmp_path / "upper", below=below)
    assert made.nid(b"new") == made.nid(b"d/a") == made.nid(b"d/b") == made.nid(b"c")
    assert made.reader.inode(made.nid(b"new")).nlink == 4
    assert made.content(b"replaced") == b"r"
    assert made.reader.inode(made.nid(b"gone")).is_whiteout


@pytest.mark.parametrize(
    ("later", "seen"),
    [
        ([member(".wh.old")], {"new": "old", "other": "old"}),
        ([member(".wh.new")], {"new": "old", "old": "old", "other": "old"}),
        ([member("old", content=b"later")], {"new": "old", "old": "later", "other": "old"}),
        ([member("new", content=b"later")], {"new": "later", "old": "old", "other": "old"}),
        ([hard_link("new", "d/old")], {"new": "in d", "old": "old", "other": "old"}),
        ([hard_link("more", "new"), member(".wh.old")], {"new": "old", "more": "old", "other": "old"}),
        ([hard_link("more", "old"), member(".wh.old")], {"new": "old", "more": "old", "other": "old"}),
        ([hard_link("in_d", "d/old"), member(".wh.d")], {"in_d": "in d", "old": "old"}),
    ],
)
def test_a_link_down_leads_to_what_was_there_when_it_came(
    tmp_path: Path, later: list[tuple[tarfile.TarInfo, bytes]], seen: dict[str, str]
) -> None:
    files = [directory("d"), member("d/old", content=b"in d"), member("old", content=b"old")]
    lower = convert_tar(make_tar(*files, hard_link("other", "old")), tmp_path / "lower")
    upper_tar = make_tar(hard_link("new", "old"), *later)
    upper = convert_tar(upper_tar, tmp_path / "upper", below=Below([lower.index]))
    tree = MergedTree([ErofsReader(i.metadata, i.virtual_bytes) for i in (lower.index, upper.index)])
    found = {}
    for path, (top, *_) in walk(tree, tree.root):
        if stat.S_ISREG(tree.reader(top.layer).mode(top.nid)):
            content = tree.reader(top.layer).extents(top.nid)
            assert isinstance(content, bytes)
            found[path.decode()] = content.decode()
    usual = {"d/old": "in d"} if found.get("in_d") is None else {"new": "old", "other": "old"}
    assert found == usual | seen


def content_from(made: Made, blobs: dict[str, bytes], path: bytes) -> bytes:
    """Like ``Made.content``, with chunks in other blobs too."""
    own = [blob for blob in made.index.blobs if blob.digest not in blobs]
    held = {**blobs, **{blob.digest: made.blob for blob in own}}
    runs = made.reader.extents(made.nid(path))
    assert not isinstance(runs, bytes)
    found = b""
    for _, virtual, length in runs:
        table, at = made.index.table, virtual
        while at < virtual + length:
            row = table.find(at)
            ref = table.row(row)
            frame = held[made.index.blobs[ref.blob].digest][ref.offset : ref.offset + ref.frame_bytes]
            plain = zstandard.decompress(frame) if ref.codec else frame
            begin = at - table.start(row)
            part = plain[begin : begin + virtual + length - at]
            found += part
            at += len(part)
    return found


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    lower = convert_tar(make_tar(member("a", content=b"x")), tmp_path / "lower")
    for n, below in enumerate((None, Below([lower.index]))):
        with pytest.raises(IntegrityError, match="nowhere"):
            convert_tar(make_tar(hard_link("b", "nothing")), tmp_path / str(n), below=below)


# -- sparse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gnu", "pax0.0", "pax0.1", "pax1.0"])
@pytest.mark.parametrize("kind", ["start", "middle", "end", "only hole", "many"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, form: str, kind: str) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    size, pieces = {
        "start": (1 << 20, [(700_000, 5000)]),
        "middle": (3 << 20, [(0, 5000), (2_000_001, 77), (2_900_000, 3)]),
        "end": (2_000_003, [(0, 4096)]),
        "only hole": (5 << 20, []),
        "many": (20 << 20, [(n * 100_000, 9000) for n in range(200)]),
    }[kind]
    with (source / "f").open("wb") as file:
        file.truncate(size)
        for at, length in pieces:
            file.seek(at)
            file.write(noise(length, at))
    (source / "after").write_bytes(b"what follows is found")
    options = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form[3:]}"]
    archive = subprocess.run(
        ["tar", "--sparse", *options, "-cf", "-", "-C", str(source), "f", "after"],
        check=True,
        capture_output=True,
    ).stdout
    made = convert_tar(archive, tmp_path / "layer")
    assert made.content(b"f") == (source / "f").read_bytes()
    assert made.content(b"after") == b"what follows is found"
    assert made.index.header.data_bytes <= sum(length + 2 * 65536 for _, length in pieces) + 8192


# -- hostile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        [member("../out", content=b"x")],
        [member("a/../../out", content=b"x")],
        [member("/etc/passwd", content=b"x")],
        [hard_link("a", "../../etc/passwd")],
        [member("s", tarfile.SYMTYPE, linkname="/etc"), member("s/passwd", content=b"x")],
        [member("f", content=b"x"), member("f/below", content=b"x")],
        [member(".wh.a/b", content=b"x")],
        [member(".wh..")],
        [member("a", b"Q", content=b"x")],
        [member("x" * 256, content=b"x")],
        [member("d" + "/x" * 2500, content=b"x")],
        [directory("d"), hard_link("e", "d")],
    ],
    ids=lambda members: members[-1][0].name[:20],
)
def test_what_a_layer_may_not_hold(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(IntegrityError) as caught:
        convert_tar(make_tar(*members), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_with_nul_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    payload = b"17 path=ab\0cdefg\n"
    header.type, header.size = tarfile.XHDTYPE, len(payload)
    archive = (
        header.tobuf(tarfile.USTAR_FORMAT) + payload.ljust(512, b"\0") + make_tar(member("y", content=b"1"))
    )
    with pytest.raises(IntegrityError, match="NUL"):
        convert_tar(archive, tmp_path)


def test_a_bomb_is_refused_and_zeros_are_not(tmp_path: Path) -> None:
    packed = zstandard.compress(bytes(64 << 20))
    with pytest.raises(IntegrityError, match="bomb"):
        sum(len(piece) for piece in decompressed(iter([packed]), free_bytes=1 << 20))
    made = convert_tar(zstandard.compress(make_tar(member("zeros", content=bytes(64 << 20)))), tmp_path)
    assert len(made.blob) < 4096
    assert made.reader.inode(made.nid(b"zeros")).size == 64 << 20


def test_a_ten_level_whiteout_puzzle(tmp_path: Path) -> None:
    """Layer n hides what layer n-1 had and puts something else there; the last decides."""
    lowers = []
    for level in range(10):
        kind = [directory("p"), member(f"p/{level}", content=b"%d" % level)]
        if level % 3 == 1:
            kind = [member(".wh.p")]
        elif level % 3 == 2:
            kind = [directory("p"), member("p/.wh..wh..opq"), member(f"p/{level}", content=b"%d" % level)]
        lowers.append(convert_tar(make_tar(*kind), tmp_path / str(level)).index)
    below = Below(lowers)
    assert below.file(b"p/9") is not None
    assert below.file(b"p/8") is not None
    assert [n for n in range(8) if below.file(b"p/%d" % n)] == []


@pytest.mark.parametrize("mode", ["ustar", "gnu", "posix", "v7"])
def test_a_real_tree_as_gnu_tar_writes_it(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "tree"
    (source / "d").mkdir(parents=True)
    (source / "d" / "file").write_bytes(noise(200_000))
    (source / "d" / "link").symlink_to("file")
    os.link(source / "d" / "file", source / "d" / "second")
    (source / "d" / ("long" * 20)).write_bytes(b"long")
    if mode != "v7":
        os.mkfifo(source / "d" / "fifo")
    os.utime(source / "d" / "file", ns=(0, 1_234_567_890))
    archive = subprocess.run(
        ["tar", f"--format={mode}", "-cf", "-", "-C", str(source), "."], check=True, capture_output=True
    ).stdout
    made = convert_tar(archive, tmp_path / "layer")
    assert made.content(b"d/file") == noise(200_000)
    assert made.nid(b"d/file") == made.nid(b"d/second")
    assert made.reader.symlink_target(made.nid(b"d/link")) == b"file"
    found = made.reader.inode(made.nid(b"d/file")).meta.mtime_ns
    assert found == (1_234_567_890 if mode == "posix" else 10**9)


@pytest.mark.parametrize("mode", ["gnu", "posix"])
def test_numbers_beyond_octal_and_xattrs_as_gnu_tar_writes_them(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x")
    os.setxattr(source, "user.binary", bytes(range(256)))
    os.setxattr(source, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    extra = ["--xattrs", "--xattrs-include=*"] if mode == "posix" else []
    command = [
        "tar",
        f"--format={mode}",
        *extra,
        "--owner=x:4000000000",
        "--group=y:3000000000",
        "--mtime=@-100",
    ]
    archive = subprocess.run(
        [*command, "-cf", "-", "-C", str(tmp_path), "file"], check=True, capture_output=True
    ).stdout
    made = convert_tar(archive, tmp_path / "layer")
    meta = made.reader.inode(made.nid(b"file")).meta
    assert (meta.uid, meta.gid, meta.mtime_ns) == (4_000_000_000, 3_000_000_000, -100 * 10**9)
    if mode == "posix":
        found = dict(meta.xattrs)
        assert found[b"user.binary"] == bytes(range(256))
        assert found[b"security.capability"] == os.getxattr(source, "security.capability")


def test_damage_of_the_archive_is_an_integrity_error(tmp_path: Path) -> None:
    archive = make_tar(member("a", content=noise(2000)))
    for cut in (10, 600, 1500, len(archive) - 10240 + 1024):
        with pytest.raises(IntegrityError):
            convert_tar(archive[:cut], tmp_path)
    with pytest.raises(IntegrityError):
        convert_tar(io.BytesIO(b"x" * 5000).read(), tmp_path)
