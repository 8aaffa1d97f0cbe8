"""What a container sees of a lazy image, beside what it sees with containerd's own overlayfs."""

from __future__ import annotations

import os
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.container_images import PushedImage, base_layer, push_container_image
from tests.support.node import CAFS, Node
from tests.support.observe import observe
from tests.support.patience import PATIENCE_S
from tests.support.program import run_cafs
from tests.support.registry import Registry
from tests.support.tars import make_tar, member
from tests.support.tiny_elf import EFFECTIVE_GID, EFFECTIVE_UID, RAW_SOCKET

CAP_NET_RAW = 13
VFS_CAP_REVISION_2, VFS_CAP_FLAGS_EFFECTIVE = 0x02000000, 1
D, LNK, SYM = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


BIG = bytes(range(256)) * 2000
# containerd refuses hard links to files of lower layers, and gives directories that no entry describes the
# time of unpacking: there is nothing to compare in these (tests/e2e/test_torture_image.py has them).
BASE = make_tar(
    member("./tree/", D, mode=0o750, uid=3, gid=4, mtime=22),
    member("./tree/deep/", D, mode=0o711, mtime=23),
    member("./tree/deep/file", content=b"small", mtime=24.5),
    member("big", content=BIG, mode=0o644, mtime=44.125, pax_headers={"SCHILY.xattr.user.a": "1"}),
    member("big-again", content=BIG, mode=0o600, uid=70_000, mtime=44),
    member("linked", LNK, linkname="./big", mode=0o644, mtime=44.125),
    member("gone/", D, mode=0o755, mtime=1),
    member("gone/file", content=b"x" * 100, mtime=1),
    member("opaque/", D, mode=0o755, mtime=44),
    member("opaque/old", content=b"old", mtime=1),
    member("becomes-file/", D, mode=0o755, mtime=1),
    member("becomes-file/x", content=b"x", mtime=1),
    member("becomes-dir", content=b"y", mtime=1),
    member("link", SYM, linkname="/nowhere/at/all", mtime=1),
    member(b"not-utf8-\xff\xfe".decode(errors="surrogateescape"), content=b"z" * 70, mtime=1),
    member("l" * 200, content=b"long", mtime=1),
    member("fifo", tarfile.FIFOTYPE, mode=0o644, mtime=1),
    member("empty", mode=0o400, mtime=1),
)
SECOND = make_tar(
    member(".wh.gone"),
    member("opaque/", D, mode=0o700, mtime=45),
    member("opaque/.wh..wh..opq"),
    member("opaque/new", content=b"new", mtime=2),
    member(".wh.becomes-file"),
    member("becomes-file", content=b"now a file", mtime=2),
    member(".wh.becomes-dir"),
    member("becomes-dir/", D, mode=0o711, mtime=2),
    member("becomes-dir/x", content=b"x", mtime=2),
    member("tree/deep/", D, mode=0o755, uid=9, mtime=3),
    member("tree/deep/other", content=b"beside", mtime=2),
    member("tree/", D, mode=0o701, mtime=5),
)
THIRD = make_tar(
    member("gone/", D, mode=0o700, mtime=55),
    member("gone/again", content=b"a new file in a directory that was gone", mtime=3),
    member("opaque/", D, mode=0o700, mtime=46),
    member("opaque/.wh.new"),
    member("opaque/newest", content=b"newest", mtime=3),
    member("tree/", D, mode=0o701, mtime=6),
    member("tree/deep/", D, mode=0o755, mtime=7),
    member("tree/deep/other", content=b"replaced", mtime=3),
)


def _capability(number: int) -> str:
    """The value of security.capability that permits one capability, at once effective (capabilities(7))."""
    value = struct.pack("<5I", VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, 1 << number, 0, 0, 0)
    return value.decode(errors="surrogateescape")


def _programs() -> bytes:
    """Programs with set-id bits and a capability, and the same without; nodes."""
    able = {"SCHILY.xattr.security.capability": _capability(CAP_NET_RAW)}
    return make_tar(
        member("bin/", D, mode=0o755, mtime=9),
        member("bin/uid", content=EFFECTIVE_UID, mode=0o755, mtime=9),
        member("bin/setuid", content=EFFECTIVE_UID, mode=0o4755, mtime=9),
        member("bin/gid", content=EFFECTIVE_GID, mode=0o755, mtime=9),
        member("bin/setgid", content=EFFECTIVE_GID, mode=0o2755, gid=77, mtime=9),
        member("bin/unable", content=RAW_SOCKET, mode=0o755, mtime=9),
        member("bin/able", content=RAW_SOCKET, mode=0o755, mtime=9, pax_headers=able),
        member("secret", content=b"root only", mode=0o600, mtime=9),
        member("sticky/", D, mode=0o1777, mtime=9),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, mtime=9),
    )


@pytest.fixture(scope="module")
def image(docker_registry: Registry) -> PushedImage:
    layers = [base_layer(), BASE, SECOND, THIRD, _programs()]
    image = push_container_image(docker_registry, "same/app", layers)
    run_cafs("convert", image.reference)
    return image


@pytest.fixture
def node(short_tmp_path: Path, image: PushedImage) -> Iterator[Node]:
    node = Node(short_tmp_path).start()
    try:
        node.pull(image.reference)
        assert len(node.lazy_mounts()) == len(image.layers)
        node.pull(image.reference, "--snapshotter", "overlayfs")
        yield node
    finally:
        node.clean_up()


def _started(node: Node, image: PushedImage, snapshotter: str, *options: str) -> tuple[str, Path]:
    name = f"cafs-same-{os.urandom(4).hex()}"
    node.containerd.run_detached(
        image.reference, name, "sleep", "1000", snapshotter=snapshotter, options=options
    )
    return name, node.containerd.merged_root(name)


def test_root_filesystems_are_the_same_entry_by_entry(node: Node, image: PushedImage) -> None:
    lazy, lazy_root = _started(node, image, CAFS)
    plain, plain_root = _started(node, image, "overlayfs")
    ours, theirs = observe(lazy_root), observe(plain_root)
    assert ours.keys() == theirs.keys()
    # runc has just made something in the root.
    roots = [replace(seen.pop(b""), mtime_ns=0) for seen in (ours, theirs)]
    assert roots[0] == roots[1]
    different = [f"{name!r}\n  {ours[name]}\n  {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    assert different == [], "\n".join(different)
    assert len(ours) > 50
    node.containerd.remove(lazy, plain)


@pytest.mark.parametrize("snapshotter", [CAFS, "overlayfs"])
def test_setuid_and_capabilities_work_inside(node: Node, image: PushedImage, snapshotter: str) -> None:
    name, _ = _started(node, image, snapshotter, "--allow-new-privs")

    def code_of(program: str) -> int:
        unique = ["--fifo-dir", str(node.containerd.folder / "fifo"), "--exec-id", os.urandom(4).hex()]
        command = node.containerd.ctr_command("task", "exec", *unique, "--user", "1000:1000", name, program)
        return subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S).returncode

    assert (code_of("/bin/uid"), code_of("/bin/setuid")) == (1000 % 256, 0)
    assert (code_of("/bin/gid"), code_of("/bin/setgid")) == (1000 % 256, 77)
    assert (code_of("/bin/unable"), code_of("/bin/able")) == (1, 0)
    node.containerd.exec(name, "sh", "-c", "echo to-nowhere > /null")
    node.containerd.remove(name)


@pytest.mark.parametrize("snapshotter", [CAFS, "overlayfs"])
def test_changes_inside(node: Node, image: PushedImage, snapshotter: str) -> None:
    """Whiteouts, opaque directories and copy-up through a real runc."""
    name, root = _started(node, image, snapshotter)
    inside = node.containerd.exec
    inside(name, "sh", "-c", "rm -r /opaque && mkdir /opaque && echo mine > /opaque/mine")
    inside(
        name, "sh", "-c", "chmod 600 /bin/able; echo more >> /big; mv /gone/again /gone/renamed; rm /linked"
    )
    assert inside(name, "ls", "/opaque").split() == ["mine"]
    assert inside(name, "ls", "/gone").split() == ["renamed"]
    assert (root / "big").stat().st_size == 512_000 + 5
    assert not (root / "linked").exists()
    node.containerd.remove(name)
