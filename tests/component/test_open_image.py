"""open_image: from a reference to opened indexes, with every way in which that can go wrong."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import zstandard

from cafs.core.settings import Settings
from cafs.errors import CafsError, DeadlineError, IntegrityError, NotFoundError, RemoteError, StorageError
from cafs.fetch.open_image import open_image
from cafs.oci.artifact import publish_artifact
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import IMAGE_ARTIFACT, LAYER_INDEX, OCI_INDEX
from cafs.oci.referrers import encode_index
from cafs.oci.registry.repository import RegistryRepository
from tests.support.converted import make_layer, push_converted
from tests.support.faults import FaultyRegistry, Stall, Status
from tests.support.logs import ExpectedLogs
from tests.support.oci import descriptor_of, push_bytes, push_image
from tests.support.registry import Registry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        cache_dir=tmp_path / "cache",
        run_dir=tmp_path / "run",
        retries=0,
        stall_timeout_s=1.0,
        read_deadline_s=3.0,
    )


@pytest.fixture
def layout(tmp_path: Path) -> LayoutRepository:
    return LayoutRepository(tmp_path / "layout")


def cached(settings: Settings) -> list[Path]:
    return sorted((settings.cache_dir / "index").iterdir())


MADE = [make_layer(0), make_layer(1)]


async def test_an_image_in_a_layout(layout: LayoutRepository, settings: Settings) -> None:
    image, _ = await push_converted(layout, MADE)
    for source in (f"oci:{layout.root}:v1", f"oci:{layout.root}", f"oci:{layout.root}@{image.digest}"):
        async with await open_image(source, settings) as opened:
            assert opened.manifest_digest == image.digest
            assert [layer.diff_id for layer in opened.layers] == [descriptor_of(m.layer).digest for m in MADE]
            for layer, made in zip(opened.layers, MADE, strict=True):
                row = layer.index.table.row(0)
                blob = layer.index.blobs[row.blob]
                assert await layer.source.read_range(blob, row.offset, row.frame_bytes) == made.content
    assert [p.read_bytes() for p in cached(settings)] == [
        m.index_file for m in sorted(MADE, key=lambda m: descriptor_of(m.index_file).digest)
    ]


async def test_the_same_layer_twice(layout: LayoutRepository, settings: Settings) -> None:
    await push_converted(layout, [MADE[0], MADE[0]])
    async with await open_image(f"oci:{layout.root}", settings) as opened:
        assert opened.layers[0].index is opened.layers[1].index


async def test_what_has_no_subject_stands_alone(layout: LayoutRepository, settings: Settings) -> None:
    for content in (MADE[0].packed, MADE[0].content):
        await push_bytes(layout, content)
    made = await publish_artifact(layout, None, [MADE[0].artifact_layer()], tag="folder")
    async with await open_image(f"oci:{layout.root}:folder", settings) as opened:
        assert opened.manifest_digest == made.digest
        assert len(opened.layers) == 1


async def test_an_artifact_bound_into_an_image_index(layout: LayoutRepository, settings: Settings) -> None:
    image, artifact = await push_converted(layout, MADE, None)
    bound = [image, Descriptor(artifact.digest, artifact.size, artifact.media_type, IMAGE_ARTIFACT)]
    await layout.push_manifest(encode_index(bound), OCI_INDEX, "bound")
    async with await open_image(f"oci:{layout.root}:bound", settings) as opened:
        assert opened.manifest_digest == image.digest


async def test_not_converted_says_what_to_do(layout: LayoutRepository, settings: Settings) -> None:
    await push_image(layout, [b"x"], "v1")
    with pytest.raises(NotFoundError, match="not converted: run `cafs convert`"):
        await open_image(f"oci:{layout.root}:v1", settings)
    with pytest.raises(NotFoundError, match="has no image 'v2'"):
        await open_image(f"oci:{layout.root}:v2", settings)
    with pytest.raises(NotFoundError, match="not an OCI image layout"):
        await open_image(f"oci:{layout.root}-nowhere", settings)
    image = await layout.resolve("v1")
    for_arm = Descriptor(image.digest, image.size, image.media_type, platform=Platform("linux", "arm64"))
    await layout.push_manifest(encode_index([for_arm]), OCI_INDEX, "multi")
    with pytest.raises(NotFoundError, match="linux/s390x"):
        await open_image(f"oci:{layout.root}:multi", settings, Platform("linux", "s390x"))


async def test_a_platform_that_is_asked_for_has_to_fit(layout: LayoutRepository, settings: Settings) -> None:
    await push_converted(layout, MADE)
    async with await open_image(f"oci:{layout.root}:v1", settings, Platform("linux", "amd64")) as opened:
        assert len(opened.layers) == 2
    with pytest.raises(NotFoundError, match="for linux/s390x"):
        await open_image(f"oci:{layout.root}:v1", settings, Platform("linux", "s390x"))


async def test_a_newer_conversion_wins(layout: LayoutRepository, settings: Settings) -> None:
    image, first = await push_converted(layout, MADE)
    again = await publish_artifact(layout, image, [m.artifact_layer() for m in MADE])
    assert again.digest == first.digest
    others = [m.artifact_layer(options="other") for m in MADE]
    second = await publish_artifact(layout, image, others)
    assert second.digest != first.digest
    back = await publish_artifact(layout, image, [m.artifact_layer() for m in MADE])
    assert back.digest not in {first.digest, second.digest}
    assert len(await layout.referrers(image, IMAGE_ARTIFACT)) == 3


async def test_a_wrong_artifact_is_passed_over(
    layout: LayoutRepository, settings: Settings, expected_logs: ExpectedLogs
) -> None:
    image, _ = await push_converted(layout, MADE)
    await publish_artifact(layout, image, [MADE[0].artifact_layer()])  # lacks a layer, and is newer
    expected_logs.expect("passing over index artifact.*does not cover the layers")
    async with await open_image(f"oci:{layout.root}", settings) as opened:
        assert len(opened.layers) == 2


def _bit_flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


BOMB = zstandard.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("packed", "changes", "says"),
    [
        (MADE[0].packed, {"index_size": len(MADE[0].index_file) - 1}, "more than its declared"),
        (MADE[0].packed, {"index_size": len(MADE[0].index_file) + 1}, "declared are"),
        (MADE[0].packed, {"index_digest": "sha256:" + "0" * 64}, "does not match its digest"),
        (MADE[0].packed, {"diff_id": "sha256:" + "0" * 64}, "from another layer"),
        (MADE[0].packed[:-9], {}, "declared are|not valid zstd"),
        (b"no zstd at all", {}, "not valid zstd"),
        (b"", {}, "declared are|not valid zstd"),
        (BOMB, {}, "more than its declared"),
    ],
)
async def test_lying_indexes(
    layout: LayoutRepository, settings: Settings, packed: bytes, changes: dict[str, object], says: str
) -> None:
    await _push_lying(layout, packed, changes)
    with pytest.raises(IntegrityError, match=says) as error:
        await open_image(f"oci:{layout.root}", settings)
    assert "\n" not in str(error.value)
    assert cached(settings) == []


async def test_an_artifact_that_names_anothers_index_costs_it_nothing(
    layout: LayoutRepository, settings: Settings
) -> None:
    await push_converted(layout, MADE[:1])
    async with await open_image(f"oci:{layout.root}", settings):
        pass
    before = cached(settings)
    await _push_lying(layout, MADE[0].packed, {"diff_id": "sha256:" + "0" * 64})
    with pytest.raises(IntegrityError, match="from another layer"):
        await open_image(f"oci:{layout.root}", settings)
    assert cached(settings) == before != []


async def _push_lying(layout: LayoutRepository, packed: bytes, changes: dict[str, object]) -> None:
    image = await push_image(layout, [MADE[0].layer], "v1")
    index = await push_bytes(layout, packed, LAYER_INDEX)
    await publish_artifact(layout, image, [MADE[0].artifact_layer(**{"index": index, **changes})])


@pytest.mark.parametrize("at", [0, 20, 60, 5000, 4096 + 1024, -60])
async def test_flipped_bits_behind_right_digests_are_found_by_the_check(
    layout: LayoutRepository, settings: Settings, at: int
) -> None:
    plain = _bit_flipped(MADE[0].index_file, at % len(MADE[0].index_file))
    await _push_lying(layout, zstandard.compress(plain), {"index_digest": descriptor_of(plain).digest})
    try:
        async with await open_image(f"oci:{layout.root}", settings):
            pass  # a bit of a time stamp may be anything: then the index is another, valid one
    except IntegrityError:
        assert cached(settings) == []


async def test_a_flipped_blob_in_the_layout(layout: LayoutRepository, settings: Settings) -> None:
    await push_converted(layout, MADE)
    path = layout.root / "blobs/sha256" / descriptor_of(MADE[0].packed).digest.partition(":")[2]
    path.write_bytes(_bit_flipped(MADE[0].packed, 40))
    with pytest.raises(IntegrityError):
        await open_image(f"oci:{layout.root}", settings)


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: _bit_flipped(c, 5000), lambda c: b""])
async def test_a_rotten_cache_is_fetched_again(
    layout: LayoutRepository,
    settings: Settings,
    expected_logs: ExpectedLogs,
    damage: Callable[[bytes], bytes],
) -> None:
    await push_converted(layout, MADE)
    await (await open_image(f"oci:{layout.root}", settings)).aclose()
    victim = cached(settings)[0]
    right = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(damage(right))
    expected_logs.expect("damaged and will be fetched again")
    await (await open_image(f"oci:{layout.root}", settings)).aclose()
    assert victim.read_bytes() == right


async def test_a_cache_that_cannot_be_written(layout: LayoutRepository, settings: Settings) -> None:
    await push_converted(layout, MADE)
    settings.cache_dir.write_bytes(b"a file where the directory should be")
    with pytest.raises(StorageError, match=r"cannot write layer indexes|cannot read"):
        await open_image(f"oci:{layout.root}", settings)


async def test_what_killed_writers_left_is_swept_away(layout: LayoutRepository, settings: Settings) -> None:
    await push_converted(layout, MADE)
    folder = settings.cache_dir / "index"
    folder.mkdir(parents=True)
    dead, alive = folder / ".new-dead", folder / ".new-alive"
    dead.touch()
    os.utime(dead, (0, 0))
    alive.touch()
    await (await open_image(f"oci:{layout.root}", settings)).aclose()
    assert not dead.exists()
    assert alive.exists()


@pytest.fixture
async def pushed(faulty_registry: FaultyRegistry, docker_registry: Registry, settings: Settings) -> str:
    """An image in the registry; answers its repository as seen through the faulty proxy."""
    name = f"open/t{uuid.uuid4().hex}"
    repository = RegistryRepository(docker_registry.host, name, settings)
    await push_converted(repository, MADE)
    await repository.aclose()
    return f"{faulty_registry.host}/{name}"


async def test_a_pinned_image_asks_nobody_the_second_time(
    pushed: str, settings: Settings, faulty_registry: FaultyRegistry
) -> None:
    async with await open_image(f"docker://{pushed}:v1", settings) as opened:
        digest = opened.manifest_digest
    async with await open_image(f"docker://{pushed}@{digest}", settings):
        pass
    faulty_registry.forget()
    async with await open_image(f"docker://{pushed}@{digest}", settings) as opened:
        assert opened.manifest_digest == digest
        assert len(opened.layers) == 2
    assert faulty_registry.settled() == []


async def test_a_registry_that_cannot_be_reached(
    pushed: str, settings: Settings, faulty_registry: FaultyRegistry, expected_logs: ExpectedLogs
) -> None:
    faulty_registry.fail(Status(503, {"Retry-After": "7"}), method=None)
    with pytest.raises(RemoteError, match="503") as error:
        await open_image(pushed + ":v1", settings)
    assert error.value.retry_after_s == 7
    faulty_registry.heal()
    async with await open_image(pushed + ":v1", settings) as opened:
        digest = opened.manifest_digest
    faulty_registry.fail(Status(503), method=None)
    expected_logs.expect(f"using {digest}, which .*:v1 was when it was last opened: .*503")
    async with await open_image(pushed + ":v1", settings) as opened:
        assert opened.manifest_digest == digest


async def test_a_refusal_is_not_overridden_by_what_is_remembered(
    pushed: str, settings: Settings, faulty_registry: FaultyRegistry
) -> None:
    await (await open_image(pushed + ":v1", settings)).aclose()
    faulty_registry.fail(Status(403), method=None)
    with pytest.raises(CafsError, match="403"):
        await open_image(pushed + ":v1", settings)


async def test_a_stalling_registry_does_not_hang(
    pushed: str, settings: Settings, faulty_registry: FaultyRegistry
) -> None:
    faulty_registry.fail(Stall(100), path="/blobs/")
    with pytest.raises(DeadlineError):
        await open_image(pushed + ":v1", settings)
    assert cached(settings) == []


async def test_opening_what_is_cached_loads_no_heavy_library(
    layout: LayoutRepository, settings: Settings
) -> None:
    await push_converted(layout, MADE)
    await (await open_image(f"oci:{layout.root}", settings)).aclose()
    program = f"""
import sys, trio
from pathlib import Path
from cafs.core.settings import Settings
from cafs.fetch.open_image import open_image
async def main():
    settings = Settings(cache_dir=Path({str(settings.cache_dir)!r}), run_dir=Path("unused"))
    async with await open_image("oci:{layout.root}", settings) as opened:
        assert len(opened.layers) == 2
trio.run(main)
print([m for m in ("httpx2", "numpy", "rich", "tarfile") if m in sys.modules])
"""
    done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert done.stdout.strip() == b"[]"
