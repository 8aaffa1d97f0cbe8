"""Converted images that are damaged or lie: no command and no reader gets a wrong byte of them."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import zstandard

from cafs.core.entry import Extent, Meta
from cafs.index.header import parse_header
from cafs.index.tree import LayerTree
from cafs.oci.artifact import publish_artifact
from cafs.oci.media_types import LAYER_INDEX
from tests.support.converted import MadeLayer
from tests.support.oci import descriptor_of, push_bytes, push_image
from tests.support.trees import index_bytes
from tests.support.user import DRIVERS, User, blob_path, flip_bit, layout_repository, replace

FILES = {f"file{n}": hashlib.shake_128(bytes([n])).digest(20_000) for n in range(4)}
CHUNK = 5000
ZSTD_MAGIC = bytes.fromhex("28b52ffd")


def make_layer() -> MadeLayer:
    """Four files of four chunks each, one after the other."""
    tree, data = LayerTree(), b""
    for name, content in FILES.items():
        tree.add_file(name.encode(), Meta(0o100644), len(content), [Extent(0, len(data), len(content))])
        data += content + bytes(-len(content) % 4096)
    layer = b"the tar"
    index = index_bytes(tree, data, CHUNK, hashlib.sha256(layer).digest())
    return MadeLayer(layer, data, index, zstandard.compress(index))


MADE = make_layer()


def push(user: User, index: bytes = MADE.index_file, packed: bytes | None = None, **lies: object) -> None:
    """The image with this index, under digests that are right but for the ``lies``."""

    async def run() -> None:
        repository = layout_repository(user)
        stored = zstandard.compress(index) if packed is None else packed
        image = await push_image(repository, [MADE.layer], "v1")
        await push_bytes(repository, stored)
        await push_bytes(repository, MADE.content)
        described = {
            "index": descriptor_of(stored, LAYER_INDEX),
            "index_digest": descriptor_of(index).digest,
            "index_size": len(index),
        }
        await publish_artifact(repository, image, [MADE.artifact_layer(**{**described, **lies})])

    trio.run(run)


def refused(user: User) -> None:
    """By every command: all of them open and check an image in the same way. Nothing is cached or mounted."""
    user.cafs("mount", user.image, user.target, code=3, warns="passing over")
    user.assert_nothing_mounted()
    assert "sound" not in user.cafs("check", user.image, code=3, warns="passing over").out
    assert list(user.cache.glob("index/sha256*")) == []


def test_it_is_shown_as_long_as_nothing_is_wrong(user: User) -> None:
    push(user)
    with user.mounted(user.image) as tree:
        assert {path.name: path.read_bytes() for path in tree.iterdir()} == FILES


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing"])
def test_an_index_damaged_where_it_is_stored(user: User, damage: str) -> None:
    push(user)
    path = blob_path(user.layout, descriptor_of(MADE.packed).digest)
    if damage == "flipped":
        flip_bit(path, len(MADE.packed) // 2)
    elif damage == "missing":
        path.unlink()
    else:
        replace(path, MADE.packed[:-7] if damage == "truncated" else b"")
    code = 1 if damage == "missing" else 3  # that a blob is not there says nothing of its bytes
    user.cafs("mount", user.image, user.target, code=code, says="sha256:")
    user.assert_nothing_mounted()
    assert user.cafs("cat", user.image, "file0", code=code, says="sha256:").out == ""
    user.cafs("check", user.image, code=3)


@pytest.mark.parametrize(
    ("packed", "lies"),
    [
        (zstandard.compress(bytes(300 << 20)), {}),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(300 << 20)), {}),
        (MADE.packed[:-9], {}),
        (b"no zstd", {}),
        (None, {"index_size": len(MADE.index_file) - 1}),
        (None, {"index_size": 1 << 60}),
        (None, {"index_digest": "sha256:" + "0" * 64}),
        (None, {"diff_id": "sha256:" + "0" * 64}),
    ],
    ids=["bomb", "bomb of no size", "cut", "no zstd", "size", "huge size", "digest", "other layer"],
)
def test_an_artifact_that_lies_of_its_index(
    user: User, packed: bytes | None, lies: dict[str, object]
) -> None:
    push(user, packed=packed, **lies)
    refused(user)


HEADER = parse_header(MADE.index_file[:4096], len(MADE.index_file))
ROWS, BLOBS = HEADER.chunk_table_offset, HEADER.blob_table_offset
TOP = (1 << 64) - 1


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (ROWS + 64 * 2 + 40, "Q", TOP),
        (ROWS + 64 * 2 + 40, "Q", TOP - CHUNK + 1),
        (ROWS + 64 * 2 + 40, "Q", len(MADE.content) - 1),
        (ROWS + 64 * 2 + 40, "Q", CHUNK),
        (ROWS + 64 * 2, "Q", TOP),
        (ROWS + 64 * 2, "Q", 0),
        (ROWS + 64 * 2 + 48, "I", 0xFFFFFFFF),
        (ROWS + 64 * 2 + 52, "I", 7),
        (BLOBS + 32, "Q", TOP),
        (BLOBS + 32, "Q", 100),
        (16, "Q", TOP - 4095),
        (24, "Q", TOP - 4095),
        (48, "Q", 1 << 58),
    ],
    ids=[
        "offset overflows", "offset and length overflow", "outside the blob", "overlaps", "range overflows",
        "range backwards", "frame too long", "no such blob", "blob size overflows", "blob too small",
        "metadata overflows", "data overflows", "table overflows",
    ],
)  # fmt: skip
def test_an_index_whose_offsets_overflow_overlap_or_point_outside(
    user: User, at: int, form: str, value: int
) -> None:
    """Its digests are right: whoever made it made it so."""
    index = bytearray(MADE.index_file)
    struct.pack_into("<" + form, index, at, value)
    push(user, bytes(index))
    refused(user)


def test_chunk_digests_that_lie_are_never_believed(user: User) -> None:
    """A well-formed index whose chunks are not what it says: each read fails, the mount stays."""
    index = bytearray(MADE.index_file)
    index[ROWS + 8] ^= 1
    push(user, bytes(index))
    for driver in DRIVERS:
        with user.mounted(user.image, f"--driver={driver}") as tree:
            assert readable(tree) == {"file1", "file2", "file3"}
            assert "does not match its digest" in user.log()
    user.cafs("check", user.image, code=3)


def readable(tree: Path) -> set[str]:
    """The files that can be read, all bytes of which must be right; the others give EIO."""
    found = set()
    for name, content in FILES.items():
        try:
            read = (tree / name).read_bytes()
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            continue
        assert read == content
        found.add(name)
    return found


Damage = Callable[[Path], None]


@pytest.fixture(params=["flipped", "truncated", "empty", "missing"])
def damage(request: pytest.FixtureRequest) -> Damage:
    """Spoils the first file's place in a blob, or more."""

    def spoil(path: Path) -> None:
        if request.param == "flipped":
            flip_bit(path, 100)
        elif request.param == "missing":
            path.unlink()
        else:
            replace(path, MADE.content[:30_000] if request.param == "truncated" else b"")

    return spoil


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_damaged_chunk_blob_fails_its_own_reads_only(user: User, damage: Damage, driver: str) -> None:
    push(user)
    path = blob_path(user.layout, descriptor_of(MADE.content).digest)
    damage(path)
    with user.mounted(user.image, f"--driver={driver}") as tree:
        good = readable(tree)
        assert len(good) < 4
        assert "failed with EIO" in user.log()
        assert descriptor_of(MADE.content).digest in user.cafs("explain", tree).out
        path.unlink(missing_ok=True)
        path.write_bytes(MADE.content)
        assert readable(tree) == set(FILES), "once it is mended, reads succeed without a new mount"


def test_a_damaged_chunk_blob_is_told_by_check_and_cat(user: User, damage: Damage) -> None:
    push(user)
    damage(blob_path(user.layout, descriptor_of(MADE.content).digest))
    user.cafs("check", user.image, code=3)
    code = 3 if blob_path(user.layout, descriptor_of(MADE.content).digest).exists() else 1
    assert user.cafs("cat", user.image, "file0", code=code, says="sha256:").out == ""


@pytest.mark.parametrize("place", ["image", "artifact"])
@pytest.mark.parametrize("lie", ["flipped", "size", "layers", "no json"])
def test_manifests_that_lie(user: User, place: str, lie: str) -> None:
    push(user)
    index = json.loads((user.layout / "index.json").read_text())
    (image,) = (d for d in index["manifests"] if "artifactType" not in d)
    (artifact,) = (d for d in index["manifests"] if "artifactType" in d)
    entry = image if place == "image" else artifact
    path = blob_path(user.layout, entry["digest"])
    content = path.read_bytes()
    if lie == "flipped":
        flip_bit(path, len(content) // 2)
    elif lie == "size":
        entry["size"] += 1
    else:
        lying = content.replace(b'"layers"', b'"slayer"') if lie == "layers" else content[:-1]
        entry["digest"], entry["size"] = descriptor_of(lying).digest, len(lying)
        blob_path(user.layout, entry["digest"]).write_bytes(lying)
    (user.layout / "index.json").write_text(json.dumps(index))
    # An artifact that cannot be used is as good as none: that is told as a warning with its reason.
    code = 1 if (place, lie) == ("image", "layers") else 3  # another image then, and not converted
    outcome = user.cafs("mount", user.image, user.target, code=code, warns="passing over")
    assert outcome.out == ""
    user.assert_nothing_mounted()


@pytest.mark.parametrize("part", ["index", "chunks"])
def test_a_dictionary_that_is_damaged_ends_the_conversion(user: User, damage: Damage, part: str) -> None:
    """``--chunk-dict`` brings chunk blobs into the target, verified; nothing else is there then."""
    tree, target = user.path / "tree", user.path / "other"
    tree.mkdir()
    for name, content in FILES.items():
        (tree / name).write_bytes(content)
    user.cafs("convert", f"dir:{tree}", user.image)
    shutil.rmtree(user.cache)
    (tree / "more").write_bytes(b"new" * 1000)
    blobs = sorted((user.layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob = blobs[-1] if part == "chunks" else next(b for b in blobs if b.read_bytes()[:4] == ZSTD_MAGIC)
    damage(blob)
    code = 3 if blob.exists() else 1
    convert = ["convert", "--chunk-dict", user.image, f"dir:{tree}", f"oci:{target}:v1"]
    user.cafs(*convert, code=code, says=blob.name[:12])
    user.assert_no_work_left()
    assert not (target / "index.json").exists()


def test_a_dictionary_that_is_not_there_or_not_converted(user: User) -> None:
    (user.path / "tree").mkdir()
    into = [f"dir:{user.path}/tree", f"oci:{user.path}/other:v1"]
    user.cafs("convert", "--chunk-dict", user.image, *into, code=1, says="layout")
    trio.run(push_image, layout_repository(user), [MADE.layer], "v1")
    user.cafs("convert", "--chunk-dict", user.image, *into, code=1, says="not converted")
    user.cafs("convert", "--chunk-dict", "no such:reference", *into, code=2)
    assert not (user.path / "other/index.json").exists()
