"""``cafs inspect``, ``ls``, ``cat``, ``check`` and ``diff`` on images in an OCI layout."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard

from cafs.cli.main import run
from cafs.core.entry import Extent, Meta
from cafs.index.tree import LayerTree
from cafs.oci.layout import LayoutRepository
from tests.support.converted import MadeLayer, push_converted
from tests.support.oci import push_image
from tests.support.program import run_cafs
from tests.support.trees import index_bytes

FILE = Meta(stat.S_IFREG | 0o644, 1000, 100, 1_700_000_000_123_456_789)
BIG = hashlib.shake_128(b"big").digest(300_000)
MOTD = hashlib.shake_128(b"motd").digest(5000)


class LayerMaker:
    """One layer: a tree, and the data of its files behind each other."""

    def __init__(self, name: bytes) -> None:
        self.tree = LayerTree()
        self._data = bytearray()
        self._name = name

    def file(self, path: bytes, content: bytes) -> None:
        self.tree.add_file(path, FILE, len(content), [Extent(0, self.reserve(content), len(content))])

    def reserve(self, content: bytes) -> int:
        start = len(self._data)
        self._data += content + bytes(-len(content) % 4096)
        return start

    def made(self, chunk_bytes: int = 50_000) -> MadeLayer:
        diff_id = hashlib.sha256(self._name).digest()
        index = index_bytes(self.tree, bytes(self._data), chunk_bytes, diff_id)
        return MadeLayer(self._name, bytes(self._data), index, zstandard.compress(index))


def lower() -> MadeLayer:
    layer = LayerMaker(b"lower")
    layer.file(b"usr/bin/big", BIG)
    layer.file(b"usr/bin/copy", BIG)
    layer.file(b"etc/motd", b"old" * 2000)
    layer.file(b"etc/gone", b"gone" * 2000)
    layer.file(b"opt/old", b"hidden" * 1000)
    layer.tree.add_symlink(b"bin", Meta(stat.S_IFLNK | 0o777), b"usr/bin")
    layer.tree.add_symlink(b"etc/abs", Meta(stat.S_IFLNK | 0o777), b"/../../usr/bin/big")
    layer.tree.add_symlink(b"loop", Meta(stat.S_IFLNK | 0o777), b"loop")
    layer.tree.add_file(b"tiny", FILE, 5, content=b"tiny\n")
    layer.tree.add_node(b"dev/null", Meta(stat.S_IFCHR | 0o666, rdev=0x103))
    return layer.made()


def upper() -> MadeLayer:
    layer = LayerMaker(b"upper")
    layer.file(b"etc/motd", MOTD)
    layer.tree.whiteout(b"etc/gone")
    layer.tree.opaque(b"opt")
    layer.tree.add_file(b"opt/b\xff\x1b", FILE, 3, content=b"odd")
    start = layer.reserve(b"island" * 100)
    layer.tree.add_file(b"sparse", FILE, 50_000, [Extent(20480, start, 600)])
    return layer.made()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with the images ``v1`` (lower, upper) and ``v0`` (lower only)."""
    root = tmp_path / "layout"

    async def push() -> None:
        repository = LayoutRepository(root)
        await push_converted(repository, [lower(), upper()], "v1")
        await push_converted(repository, [lower()], "v0")

    trio.run(push)
    return root


@pytest.fixture
def cafs(
    layout: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, bytes, str]]:
    """Runs a command on image v1: (exit code, standard output, standard error)."""

    def call(name: str, *arguments: str, image: str = "v1") -> tuple[int, bytes, str]:
        settings = ["--set", f"cache_dir={tmp_path / 'cache'}"]
        code = run([name, f"oci:{layout}:{image}", *arguments, *settings])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


Cafs = Callable[..., tuple[int, bytes, str]]


def test_ls_shows_the_layers_merged(cafs: Cafs) -> None:
    assert cafs("ls") == (0, b"bin\ndev\netc\nloop\nopt\nsparse\ntiny\nusr\n", "")
    assert cafs("ls", "/etc") == (0, b"abs\nmotd\n", "")
    assert cafs("ls", "opt") == (0, b"b\\xff\\x1b\n", "")
    assert cafs("ls", "bin/") == (0, b"big\ncopy\n", "")
    assert cafs("ls", "/usr/../bin/big") == (0, b"/usr/../bin/big\n", "")


def test_ls_long_is_like_ls(cafs: Cafs) -> None:
    _, out, _ = cafs("ls", "-l")
    lines = out.decode().splitlines()
    assert lines[0].split() == [
        "lrwxrwxrwx",
        "1",
        "0",
        "0",
        "7",
        "1970-01-01",
        "00:00",
        "bin",
        "->",
        "usr/bin",
    ]
    assert "-rw-r--r-- 1 1000 100     5 2023-11-14 22:13 tiny" in lines
    _, out, _ = cafs("ls", "-l", "/dev")
    assert b" 1, 3 " in out


def test_ls_recursive_as_documents(cafs: Cafs) -> None:
    _, out, _ = cafs("ls", "-R", "--json")
    documents = {document["path"]: document for document in json.loads(out)}
    assert list(documents) == sorted(documents, key=lambda path: path.split("/"))
    assert documents["etc/motd"]["layer"] == 1
    assert documents["usr/bin/big"]["layer"] == 0
    assert documents["etc/abs"]["target"] == "/../../usr/bin/big"
    assert documents["opt/b\\xff\x1b"]["path_hex"] == "6f70742f62ff1b"
    assert "etc/gone" not in documents
    assert documents["dev/null"]["device"] == [1, 3]


async def test_a_target_that_is_no_text_is_there_as_hex(tmp_path: Path) -> None:
    layer = LayerMaker(b"odd")
    layer.tree.add_symlink(b"link", Meta(stat.S_IFLNK | 0o777), b"\xff\\xfe")
    await push_converted(LayoutRepository(tmp_path / "odd"), [layer.made()], "v1")
    env = {"CAFS_CACHE_DIR": str(tmp_path / "cache")}
    (document,) = run_cafs("ls", "--json", f"oci:{tmp_path}/odd:v1", env=env).json
    assert (document["target"], document["target_hex"]) == ("\\xff\\xfe", "ff5c786665")
    assert "path_hex" not in document


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/bin/big", BIG),
        ("etc/abs", BIG),
        ("etc/motd", MOTD),
        ("tiny", b"tiny\n"),
        ("sparse", bytes(20480) + b"island" * 100 + bytes(50_000 - 20480 - 600)),
    ],
)
def test_cat_writes_the_file(cafs: Cafs, path: str, content: bytes) -> None:
    assert cafs("cat", path) == (0, content, "")


def test_cat_has_no_json(cafs: Cafs) -> None:
    actual, out, err = cafs("cat", "etc/motd", "--json")
    assert (actual, out) == (2, b"")
    assert "leave --json out" in err


@pytest.mark.parametrize(
    ("command", "path", "code", "message"),
    [
        ("cat", "etc/gone", 1, "no such file"),
        ("cat", "opt/old", 1, "no such file"),
        ("cat", "etc", 2, "not a regular file"),
        ("cat", "loop", 2, "too many symlinks"),
        ("ls", "tiny/x", 1, "no directory"),
        ("ls", "tiny/", 1, "no directory"),
        ("cat", "etc/abs/", 1, "no directory"),
        ("ls", "nowhere/", 1, "no such file"),
    ],
)
def test_a_path_that_is_not_there(cafs: Cafs, command: str, path: str, code: int, message: str) -> None:
    actual, out, err = cafs(command, path)
    assert (actual, out) == (code, b"")
    assert message in err
    assert err.count("\n") == 1


def test_inspect_counts(cafs: Cafs) -> None:
    _, out, _ = cafs("inspect", "--json")
    document: dict[str, Any] = json.loads(out)
    first, second = document["layers"]
    assert first["listed"]["plain_bytes"] == first["data_bytes"] == len(lower().content)
    assert first["fresh"]["chunks"] + second["fresh"]["chunks"] == document["distinct"]["chunks"]
    assert sum(bar["chunks"] for bar in document["chunk_sizes"]) == document["distinct"]["chunks"]
    assert document["compression_ratio"] == 1
    assert second["inodes"] == 7
    code, out, _ = cafs("inspect")
    assert code == 0
    assert "█" in out.decode()
    assert "dedup ratio" in out.decode()


async def test_an_image_without_layers_is_nothing_special(tmp_path: Path) -> None:
    """Some only carry a configuration, or attestations."""
    repository = LayoutRepository(tmp_path / "layout")
    await push_image(repository, [], "v1")
    image, point = f"oci:{tmp_path}/layout:v1", tmp_path / "mnt"
    point.mkdir()
    env = {"CAFS_CACHE_DIR": f"{tmp_path}/cache", "CAFS_RUN_DIR": f"{tmp_path}/run"}
    for command in ("convert", "inspect", "check"):
        run_cafs(command, image, env=env)
    assert "B needs 0 B" in run_cafs("diff", image, image, env=env).out
    for arguments in (["ls"], ["cat", "/x"], ["mount", str(point)], ["mount", str(point), "--driver=fuse"]):
        command, *more = arguments
        told = run_cafs(command, image, *more, code=1, env=env).err
        assert "has no layers, so there are no files in it" in told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_locale_cannot_write_is_escaped(layout: Path, tmp_path: Path, encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding, "CAFS_CACHE_DIR": str(tmp_path / "cache")}
    odd = str(layout.rename(layout.with_name("łayout")))
    assert "\\u2264 64.0 KiB" in run_cafs("inspect", f"oci:{odd}:v1", env=env).out
    document = json.loads(run_cafs("inspect", "--json", f"oci:{odd}:v1", env=env).out)
    assert document["image"] == f"oci:{odd}:v1"


def test_diff_tells_what_is_shared(cafs: Cafs, layout: Path) -> None:
    _, out, _ = cafs("diff", f"oci:{layout}:v0", "--json")
    document: dict[str, Any] = json.loads(out)
    assert document["layers"]["both"]["count"] == 1
    # big, copy (the same content), and tiny; motd differs, gone and old are hidden in v1.
    assert document["files"]["both"]["count"] == 3
    assert document["chunks"]["both"] == document["chunks"]["second"]
    _, out, _ = cafs("diff", f"oci:{layout}:v0")
    assert "B needs 0 B in 0 chunks that A has not" in out.decode()
    _, out, _ = cafs("diff", f"oci:{layout}:v1", image="v0")
    assert (
        f"in {document['chunks']['first']['count'] - document['chunks']['both']['count']} chunks"
        in out.decode()
    )


def blob(layout: Path, content: bytes) -> Path:
    return layout / "blobs" / "sha256" / hashlib.sha256(content).hexdigest()


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_check_finds_a_sound_image_sound(cafs: Cafs) -> None:
    code, out, err = cafs("check", "--quiet")
    assert (code, err) == (0, "")
    assert b"sound (2 layers" in out


def test_check_names_each_damaged_chunk(cafs: Cafs, layout: Path) -> None:
    content = lower().content
    for at in (60_000, 120_000, 120_001):
        damage(blob(layout, content), at)
    code, out, err = cafs("check", "--quiet")
    lines = out.decode().splitlines()
    digest = hashlib.sha256(content).hexdigest()
    assert code == 3
    assert "damaged in 2 places" in err
    assert lines[0].startswith("layer 0, chunk 1 (image offset ")
    assert f"at 50000 of blob sha256:{digest}: chunk " in lines[0]
    assert f"at 100000 of blob sha256:{digest}" in lines[1]
    code, out, _ = cafs("check", "--quiet", "--json")
    assert code == 3
    assert [found["row"] for found in json.loads(out)["damages"]] == [1, 2]


def test_check_tells_of_a_blob_that_is_cut_or_missing(cafs: Cafs, layout: Path) -> None:
    path = blob(layout, upper().content)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    code, out, _ = cafs("check", "--quiet")
    assert code == 3
    assert b"layer 1, chunk 0" in out
    path.unlink()
    code, out, _ = cafs("check", "--quiet")
    assert code == 3
    assert b"has no blob" in out


def test_check_reads_the_index_from_where_it_is_stored(cafs: Cafs, layout: Path) -> None:
    assert cafs("ls")[0] == 0, "now it is in the cache"
    damage(blob(layout, lower().packed), 100)
    assert cafs("ls")[0] == 0
    code, out, err = cafs("check", "--quiet")
    assert code == 3
    assert out.startswith(b"layer 0, index sha256:")
    assert "damaged in 1 place" in err
