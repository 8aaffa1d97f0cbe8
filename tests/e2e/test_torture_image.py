"""An image whose layers do everything that layers may do to each other, beside umoci's unpacking of it."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from tests.support.gnu_tar import unpack_with_gnu_tar
from tests.support.observe import Seen, observe
from tests.support.oci import image_config, manifest_bytes, push_bytes
from tests.support.program import run_cafs
from tests.support.tars import make_tar, member

D, SYM, LNK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
BIG = bytes(range(256)) * 2000
HOLES = bytes(40_960) + b"island" * 1024 + bytes(100_000) + b"coast" * 300
"""As read; in the tar only the two runs of data are stored."""


def raw(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


CAPABLE = raw(bytes.fromhex("0100000200040000000000000000000000000000"))
ACL = raw(
    bytes.fromhex("0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000500ffffffff")
)


def xattr(**named: str) -> dict[str, str]:
    return {f"SCHILY.xattr.user.{name}": value for name, value in named.items()}


def sparse(name: str, content: bytes, runs: list[tuple[int, int]]) -> tuple[tarfile.TarInfo, bytes]:
    """A member in GNU tar's sparse format 1.0: a block with the map, then the runs (offset, length)."""
    lines = [len(runs), *(number for run in runs for number in run)]
    listed = b"".join(b"%d\n" % number for number in lines)
    stored = listed.ljust(512, b"\0") + b"".join(content[at : at + length] for at, length in runs)
    headers = {"major": "1", "minor": "0", "name": name, "realsize": str(len(content))}
    return member(
        f"GNUSparseFile.0/{name}",
        content=stored,
        mode=0o640,
        mtime=66,
        pax_headers={f"GNU.sparse.{key}": value for key, value in headers.items()},
    )


BASE = make_tar(
    member("./", D, mode=0o755, mtime=11),
    member("./etc/", D, mode=0o750, uid=3, gid=4, mtime=22),
    member("./etc/passwd", content=b"root" * 30, mode=0o4755, uid=70_000, mtime=33),
    member("./etc/deep/er/file", content=b"its parents are implied"),
    member("big", content=BIG, mode=0o644, pax_headers=xattr(a="1", b="2")),
    member(
        "able",
        content=b"may bind ports",
        mode=0o755,
        pax_headers={"SCHILY.xattr.security.capability": CAPABLE},
    ),
    member("guarded/", D, mode=0o770, pax_headers={"SCHILY.xattr.system.posix_acl_default": ACL}),
    member("marked", SYM, linkname="big", pax_headers={"SCHILY.xattr.trusted.mark": "on a symlink"}),
    member("big-again", content=BIG, mode=0o600, mtime=44.125),
    member("linked", LNK, linkname="./big"),
    member("gone/", D, mode=0o755),
    member("gone/file", content=b"x" * 100),
    member("opaque/", D, mode=0o755, mtime=44),
    member("opaque/old", content=b"old"),
    member("becomes-file/", D, mode=0o755),
    member("becomes-file/x", content=b"x"),
    member("becomes-dir", content=b"y"),
    member("link", SYM, linkname="/nowhere/at/all"),
    member(raw(b"not-utf8-\xff\xfe"), content=b"z" * 70),
    member("l" * 200, content=b"long"),
    member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, mtime=7),
    member("disk", tarfile.BLKTYPE, devmajor=259, devminor=70_000, mode=0o660, gid=6, mtime=8),
    member("disk-again", LNK, linkname="disk"),
    sparse("holes", HOLES, [(40_960, 6144), (147_104, 1500)]),
    member("fifo", tarfile.FIFOTYPE, mode=0o644),
    member("twice", content=b"first"),
    member("twice", content=b"second, longer"),
    member("before-1970", content=b"old", pax_headers={"mtime": "-1000000.25"}),
    member("empty", mode=0o400),
    form=tarfile.PAX_FORMAT,
)
SECOND = make_tar(
    member(".wh.gone"),
    member("opaque/.wh..wh..opq"),
    member("opaque/new", content=b"new"),
    member(".wh.becomes-file"),
    member("becomes-file", content=b"now a file"),
    member(".wh.becomes-dir"),
    member("becomes-dir/", D, mode=0o711),
    member("becomes-dir/x", content=b"x"),
    member("second-name", LNK, linkname="etc/passwd", mode=0o4755, uid=70_000, mtime=33),
    member("etc/deep/other", content=b"beside"),
    member("third-name", LNK, linkname="./big", mode=0o644, pax_headers=xattr(a="1", b="2")),
    form=tarfile.PAX_FORMAT,
)
THIRD = make_tar(
    member("gone/", D, mode=0o700, mtime=55),
    member("gone/again", content=b"a new file in a directory that was gone"),
    member("opaque/.wh.new"),
    member("opaque/newest", content=b"newest"),
    member("etc/deep/other", content=b"replaced"),
    member("d" * 90 + "/" + "e" * 90, content=b"ustar prefix"),
    form=tarfile.USTAR_FORMAT,
)
FOURTH = make_tar(
    member("g" * 120, content=b"a long name of GNU tar", uid=4_000_000_000, gid=3_000_000, mtime=-100),
    member("to-" + "g" * 120, SYM, linkname="/" + "h" * 150, mtime=-1),
    member("hard-" + "g" * 120, LNK, linkname="g" * 120),
    form=tarfile.GNU_FORMAT,
)
LAYERS = [BASE, SECOND, THIRD, FOURTH]


@pytest.fixture
async def image(tmp_path: Path) -> str:
    return await push_torture(tmp_path, gzip.compress(FOURTH), "+gzip")


@pytest.fixture
async def image_with_zstd(tmp_path: Path) -> str:
    """Two frames. umoci does not read it."""
    return await push_torture(
        tmp_path, zstandard.compress(FOURTH[:700]) + zstandard.compress(FOURTH[700:]), "+zstd"
    )


async def push_torture(folder: Path, last: bytes, suffix: str) -> str:
    layout = LayoutRepository(folder / "layout")
    config = await push_bytes(layout, image_config(LAYERS), OCI_CONFIG)
    layers = [
        await push_bytes(layout, BASE, OCI_LAYER),
        await push_bytes(layout, gzip.compress(SECOND), OCI_LAYER + "+gzip"),
        # Two members: pigz and others write many.
        await push_bytes(
            layout, gzip.compress(THIRD[:1000]) + gzip.compress(THIRD[1000:]), OCI_LAYER + "+gzip"
        ),
        await push_bytes(layout, last, OCI_LAYER + suffix),
    ]
    await layout.push_manifest(manifest_bytes(config, layers), OCI_MANIFEST, "v1")
    return f"oci:{layout.root}:v1"


def unpacked_by_umoci(image: str, folder: Path) -> dict[bytes, Seen]:
    source = image.removeprefix("oci:")
    subprocess.run(["umoci", "raw", "unpack", "--image", source, folder], check=True, timeout=60)
    return observe(folder)


def shown(source: str, driver: str, folder: Path, env: dict[str, str]) -> dict[bytes, Seen]:
    """What a mount shows, at a mount point of its own."""
    target = folder / driver
    target.mkdir()
    run_cafs("mount", "--trusted", source, target, f"--driver={driver}", env=env)
    try:
        return observe(target)
    finally:
        run_cafs("umount", target, env=env)


def assert_same(found: dict[bytes, Seen], oracle: dict[bytes, Seen], touched: frozenset[bytes]) -> None:
    """Equal, but for the times of directories that the oracle wrote into after it had set them."""
    assert found.keys() == oracle.keys()
    alike = {
        path: replace(seen, mtime_ns=oracle[path].mtime_ns) if path in touched else seen
        for path, seen in found.items()
    }
    different = {
        os.fsdecode(path): (alike[path], oracle[path]) for path in alike if alike[path] != oracle[path]
    }
    assert list(different) == [], different
    assert all(stat.S_ISDIR(found[path].mode) for path in touched)


UMOCI_TOUCHES = frozenset({b"", b"etc", b"etc/deep", b"etc/deep/er", b"d" * 90})
"""No entry describes them, or a later layer writes into them without describing them again."""


@pytest.mark.parametrize("driver", ["erofs", "fuse"])
async def test_shows_what_umoci_unpacks(image: str, tmp_path: Path, driver: str) -> None:
    env = {"CAFS_CACHE_DIR": str(tmp_path / "cache"), "CAFS_RUN_DIR": str(tmp_path / "run")}
    run_cafs("convert", image, env=env)
    run_cafs("check", image, env=env)
    oracle = unpacked_by_umoci(image, tmp_path / "oracle")
    assert_same(shown(image, driver, tmp_path, env), oracle, UMOCI_TOUCHES)


@pytest.mark.parametrize("driver", ["erofs", "fuse"])
async def test_shows_what_gnu_tar_unpacks(image_with_zstd: str, tmp_path: Path, driver: str) -> None:
    env = {"CAFS_CACHE_DIR": str(tmp_path / "cache"), "CAFS_RUN_DIR": str(tmp_path / "run")}
    run_cafs("convert", image_with_zstd, env=env)
    layers = [tmp_path / f"{number}.tar" for number in range(len(LAYERS))]
    for path, content in zip(layers, LAYERS, strict=True):
        path.write_bytes(content)
    touched = unpack_with_gnu_tar(layers, tmp_path / "oracle")
    found = shown(image_with_zstd, driver, tmp_path, env)
    assert_same(found, observe(tmp_path / "oracle"), touched & found.keys())
    assert found[b"holes"].content == hashlib.sha256(HOLES).hexdigest()
