"""Layers that lie or attack, given to ``cafs convert``: one line, the right exit code, nothing left."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Callable

import pytest
import zstandard

from tests.support.program import run_cafs
from tests.support.tars import make_tar, member
from tests.support.user import DRIVERS, User, blob_path, flip_bit, layout_repository, push_layers_as, replace

LINK, HARD, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
FILE = member("d/file", content=b"content" * 999)
GOOD = make_tar(member("d", DIRECTORY, mode=0o755), FILE)

# A PAX record may hold any byte; an old-style name field ends at the first NUL.
NUL_NAME = make_tar(member("x", pax_headers={"path": "a\0b"}))


def _member_of(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Only the header, with a size that is a lie until that many bytes follow."""
    info = tarfile.TarInfo("zeros")
    info.type, info.size = kind, size
    return info.tobuf()


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (make_tar(FILE, member("../evil", content=b"x")), r"\.\./evil.*'\.\.'"),
        (make_tar(FILE, member("d/../../evil", content=b"x")), r"'\.\.'"),
        (make_tar(FILE, member("/etc/evil", content=b"x")), "/etc/evil.*absolute"),
        (make_tar(FILE, member("hard", HARD, linkname="../../etc/passwd")), r"'\.\.'"),
        (make_tar(FILE, member("hard", HARD, linkname="/etc/nobody-has-this")), "etc/nobody-has-this"),
        (make_tar(member("s", LINK, linkname="/"), member("s/evil", content=b"x")), "s/evil"),
        (make_tar(member("s", LINK, linkname="d"), member("s/t/evil", content=b"x")), "s/t/evil"),
        (make_tar(FILE, member("d/file/evil", content=b"x")), "d/file/evil"),
        (NUL_NAME, "NUL"),
        (make_tar(FILE, member("d/.wh./x")), "whiteout"),
        (make_tar(member("x", pax_headers={"SCHILY.xattr.system.posix_acl_access": "rwx"})), "x.* no ACL"),
        (_member_of(8 << 30), "truncated"),
        (GOOD[:-5000], "truncated"),
        (b"not a tar at all" * 100, "tar"),
        (gzip.compress(GOOD)[:-9], "truncated|damaged"),
        (zstandard.compress(GOOD)[:-9], "truncated|damaged"),
    ],
)
def test_a_hostile_layer_is_refused(user: User, layer: bytes, says: str) -> None:
    """With digests that are right: somebody built it so. Also when given as a plain tar."""
    push_layers_as(layout_repository(user), [layer], [_plain_digest(layer)])
    before = _files(user)
    user.cafs("convert", user.image, code=3, says=says)
    assert _files(user) == before
    user.assert_no_work_left()
    user.cafs("mount", user.image, user.target, code=1, says="cafs convert")
    user.assert_nothing_mounted()
    user.cafs("convert", user.image, f"oci:{user.path}/other:v1", code=3, says=says)
    assert not (user.path / "other/index.json").exists(), "not even the image as it is"
    tar = user.path / "layer.tar"
    tar.write_bytes(layer)
    user.cafs("convert", f"tar:{tar}", f"oci:{user.path}/out:v1", code=3, says=says)
    user.assert_no_work_left()
    assert not list(user.path.glob("out/blobs/sha256/*"))


def test_links_out_of_the_root_are_kept_as_they_are_and_never_followed(user: User) -> None:
    secret = user.path / "secret"
    secret.write_text("of the machine, not of the image")
    away = f"../../../../../../../../..{secret}"
    layer = make_tar(
        member("up", LINK, linkname=away),
        member("abs", LINK, linkname=str(secret)),
        member("e", content=b"x"),
    )
    push_layers_as(layout_repository(user), [layer], [_plain_digest(layer)])
    user.cafs("convert", user.image)
    for name in ("up", "abs"):
        user.cafs("cat", user.image, name, code=1, says="no such file")
    with user.mounted(user.image) as tree:
        assert str((tree / "up").readlink()) == away
        assert str((tree / "abs").readlink()) == str(secret)


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "../../../../etc", "{outside}"])
def test_what_lies_below_a_symlink_of_a_lower_layer_hides_the_symlink(user: User, target: str) -> None:
    """As where containerd unpacks onto overlayfs. Nothing follows the symlink, wherever it leads."""
    outside = user.path / "outside"
    outside.mkdir()
    lower = make_tar(
        member("usr/lib", DIRECTORY, mode=0o755),
        member("usr/lib/old", content=b"old"),
        member("lib", LINK, linkname=target.format(outside=outside)),
    )
    layers = [lower, make_tar(member("lib/new", content=b"new"))]
    push_layers_as(layout_repository(user), layers, [_plain_digest(layer) for layer in layers])
    user.cafs("convert", user.image)
    for driver in DRIVERS:
        with user.mounted(user.image, f"--driver={driver}") as tree:
            assert sorted(os.walk(tree))[1:] == [
                (f"{tree}/lib", [], ["new"]),
                (f"{tree}/usr", ["lib"], []),
                (f"{tree}/usr/lib", [], ["old"]),
            ]
            assert (tree / "lib/new").read_bytes() == b"new"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer", "empty", "missing"])
@pytest.mark.parametrize("pack", [lambda tar: tar, gzip.compress, zstandard.compress])
def test_a_damaged_layer_is_refused(user: User, damage: str, pack: Callable[[bytes], bytes]) -> None:
    """Damaged where it is stored, so that its digest tells."""
    layer = pack(GOOD)
    push_layers_as(layout_repository(user), [layer], [_plain_digest(layer)])
    path = blob_path(user.layout, _digest(layer))
    if damage == "flipped":
        flip_bit(path, len(layer) // 2)
    elif damage == "missing":
        path.unlink()
    else:
        replace(path, {"truncated": layer[:-1], "longer": layer + b"\0", "empty": b""}[damage])
    before = _files(user)
    user.cafs("convert", user.image, code=1 if damage == "missing" else 3, says=_digest(layer)[:20])
    assert _files(user) == before
    user.assert_no_work_left()


def test_a_diffid_that_lies_is_refused(user: User) -> None:
    lie = "sha256:" + "1" * 64
    push_layers_as(layout_repository(user), [GOOD], [lie])
    before = _files(user)
    user.cafs("convert", user.image, code=3, says=f"unpacks to .*config says {lie}")
    assert _files(user) == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"size": SIZE', '"size": 1', "size|bytes"),
        ('"size": SIZE', '"size": 999999999999', "size|bytes"),
        ('"size": SIZE', '"size": -1', "size"),
        ("DIGEST", "sha256:" + "2" * 64, "2222"),
        ("DIGEST", "../../../../etc/passwd", "digest"),
        ('"layers"', '"nothing"', "layers"),
        ('"layers"', r'"annotations": {"half a character": "\ud800"}, "layers"', "not valid JSON"),
    ],
)
def test_a_manifest_that_lies_is_refused(user: User, old: str, new: str, says: str) -> None:
    """Its own digest is right: whoever made it made it so."""
    image = push_layers_as(layout_repository(user), [GOOD], [_digest(GOOD)])
    path = blob_path(user.layout, image.digest)
    text = path.read_text()
    old = old.replace("SIZE", str(len(GOOD))).replace("DIGEST", _digest(GOOD))
    assert old in text
    lying = text.replace(old, new).encode()
    blob_path(user.layout, _digest(lying)).write_bytes(lying)
    index = user.layout / "index.json"
    told = index.read_text().replace(image.digest, _digest(lying))
    index.write_text(
        told.replace(f'"size":{image.size}', f'"size":{len(lying)}').replace(
            f'"size": {image.size}', f'"size": {len(lying)}'
        )
    )
    before = _files(user)
    outcome = user.cafs("convert", user.image, code=1 if "2222" in new else 3, says=says)
    assert outcome.out == ""
    assert _files(user) == before
    user.assert_no_work_left()


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (_member_of(400 << 20), 0),
        (GOOD, 0),
        (_member_of(400 << 20, tarfile.XHDTYPE), 3),
        (_member_of(400 << 20, tarfile.GNUTYPE_LONGNAME), 3),
    ],
    ids=["in a file", "behind the end", "in an extended header", "in a long name"],
)
@pytest.mark.parametrize("pack", ["gzip", "zstd"])
def test_a_bomb_costs_neither_memory_nor_disk(user: User, head: bytes, code: int, pack: str) -> None:
    """400 MiB of zeros in a few hundred KiB: taken piece by piece, or refused by the size they declare."""
    tar = user.path / "bomb.tar"
    with tar.open("wb") as file:
        bomb = (
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1)
            if pack == "gzip"
            else (zstandard.ZstdCompressor(1).stream_writer(file, closefd=False))
        )
        with bomb:
            bomb.write(head)
            for _ in range(400):
                bomb.write(bytes(1 << 20))
            bomb.write(bytes(1024))
    limited = ["prlimit", f"--data={350 << 20}", f"--fsize={32 << 20}"]
    run_cafs("convert", f"tar:{tar}", f"oci:{user.path}/out:v1", *user.flags, code=code, prefix=limited)
    assert sum(path.stat().st_size for path in user.path.glob("out/blobs/sha256/*")) < 4 << 20
    user.assert_no_work_left()


def _plain_digest(layer: bytes) -> str:
    if layer.startswith(b"\x1f\x8b"):
        try:
            return _digest(gzip.decompress(layer))
        except EOFError:
            return _digest(GOOD)
    if layer.startswith(b"\x28\xb5\x2f\xfd"):
        return _digest(GOOD)
    return _digest(layer)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _files(user: User) -> list[tuple[str, int]]:
    """What the layout holds, its lock aside."""
    return sorted(
        (str(path), path.stat().st_size)
        for path in user.layout.rglob("*")
        if path.is_file() and "lock" not in path.name
    )
