"""``cafs get`` and ``cafs://`` against an origin in this process: whole files or honest errors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.digest import Digest, parse_digest
from cafs.core.progress import Progress, SilentProgress
from cafs.core.proxying.listing import parse_index
from cafs.core.settings import Settings
from cafs.download.get import Got, Order, get
from cafs.download.pace import Pace
from cafs.download.registry import TITLE
from cafs.errors import AuthError, IntegrityError, NotFoundError, RemoteError, UsageError
from cafs.filesystem import CafsFileSystem
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from tests.support.faults import FaultyRegistry, Status
from tests.support.oci import manifest_bytes, push_bytes
from tests.support.proxying import Origin, Told, serve_origin

BODY = os.urandom(1 << 20)
DIGEST = parse_digest("sha256:" + hashlib.sha256(BODY).hexdigest())


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serve_origin() as served:
        yield served


async def run_get(tmp_path: Path, order: Order, progress: Progress | None = None) -> Got:
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", stall_timeout_s=2, retries=1)
    return await get(settings, order, progress or SilentProgress())


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_a_file_with_what_is_sent_for_it(origin: Origin, tmp_path: Path) -> None:
    origin.page("/f", BODY)
    order = Order(url=f"{origin.url}/f", output=tmp_path / "f", digest=DIGEST, headers=(("x-mine", "1"),))
    got = await run_get(tmp_path, order)
    assert (tmp_path / "f").read_bytes() == BODY
    assert (got.files[0].received_bytes, got.by_peer) == (len(BODY), False)
    assert origin.asked[0].headers["x-mine"] == "1"
    assert names(tmp_path) == ["f"]


async def test_ranges(origin: Origin, tmp_path: Path) -> None:
    origin.page("/f", BODY)
    order = Order(url=f"{origin.url}/f", output=tmp_path / "f", first_byte=10, last_byte=19)
    await run_get(tmp_path, order)
    assert (tmp_path / "f").read_bytes() == BODY[10:20]
    with pytest.raises(UsageError, match="no such range"):
        await run_get(tmp_path, replace(order, first_byte=len(BODY), last_byte=None, output=tmp_path / "g"))
    assert names(tmp_path) == ["f"]


async def test_wrong_content_leaves_nothing(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"before")
    origin.page("/f", BODY[:-1])
    with pytest.raises(IntegrityError):
        await run_get(tmp_path, Order(url=f"{origin.url}/f", output=tmp_path / "f", digest=DIGEST))
    assert (tmp_path / "f").read_bytes() == b"before"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (401, AuthError), (403, AuthError)])
async def test_what_the_origin_refuses(
    origin: Origin, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    origin.page("/f", b"no", status)
    with pytest.raises(error, match=str(status)):
        await run_get(tmp_path, Order(url=f"{origin.url}/f", output=tmp_path / "f"))
    assert names(tmp_path) == []


class Watch(SilentProgress):
    """Tells when half has come."""

    def __init__(self) -> None:
        self.half = trio.Event()
        self.seen = 0

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Watch:
        """Itself."""
        return self

    def advance(self, amount: int) -> None:
        """Count."""
        self.seen += amount
        if self.seen >= len(BODY) // 2:
            self.half.set()

    def finish(self, note: str = "") -> None:
        """Nothing."""


async def interrupted(origin: Origin, tmp_path: Path, order: Order, **headers: str) -> None:
    """A first try that is cancelled when half has come, and no more comes."""
    origin.page("/f", BODY, **headers)
    whole = origin.pages["/f"]
    half = {"content-length": str(len(BODY)), **{name.replace("_", "-"): v for name, v in headers.items()}}
    origin.pages["/f"] = lambda _: Told(200, half, BODY[: len(BODY) // 2], whole=False)
    watch = Watch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_get, tmp_path, order, watch)
        await watch.half.wait()
        nursery.cancel_scope.cancel()
    origin.pages["/f"] = whole
    assert names(tmp_path) == ["f.part"]


@pytest.mark.parametrize("proof", ["etag", "digest", "nothing"])
async def test_it_goes_on_where_it_was_interrupted_if_something_proves_it(
    origin: Origin, tmp_path: Path, proof: str
) -> None:
    order = Order(url=f"{origin.url}/f", output=tmp_path / "f", digest=DIGEST if proof == "digest" else None)
    await interrupted(origin, tmp_path, order, **({"etag": '"v1"'} if proof == "etag" else {}))
    got = await run_get(tmp_path, order)
    assert (tmp_path / "f").read_bytes() == BODY
    assert got.files[0].received_bytes == (len(BODY) if proof == "nothing" else len(BODY) // 2)
    assert names(tmp_path) == ["f"]


async def test_changed_content_is_fetched_anew(origin: Origin, tmp_path: Path) -> None:
    order = Order(url=f"{origin.url}/f", output=tmp_path / "f")
    await interrupted(origin, tmp_path, order, etag='"v1"')
    changed = BODY[::-1]
    origin.page("/f", changed, etag='"v2"')
    await run_get(tmp_path, order)
    assert (tmp_path / "f").read_bytes() == changed


async def test_an_origin_that_breaks_off_is_asked_for_the_rest(
    origin: Origin, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.2  # while nothing is on its way, and no thread writes
    origin.page("/f", BODY, etag='"v1"')
    whole = origin.pages["/f"]
    tries = []

    def answer(asked: Any) -> Told:
        tries.append(asked)
        if len(tries) > 1:
            return whole(asked)
        headers = {"etag": '"v1"', "content-length": str(len(BODY))}
        return Told(200, headers, BODY[:1000], whole=False)

    origin.pages["/f"] = answer
    await run_get(tmp_path, Order(url=f"{origin.url}/f", output=tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == BODY
    assert origin.asked[1].headers["range"] == "bytes=1000-"


async def test_directories_of_an_index_page(origin: Origin, tmp_path: Path) -> None:
    html = {"content_type": "text/html"}
    links = b'<a href="../">up</a><a href="a.txt">a</a><a href="sub/">s</a><a href="?C=M">x</a>'
    origin.page("/d/", links + b'<a href="/etc/passwd">p</a><a href="%2e%2e%2fb">q</a>', **html)
    origin.page("/d/sub/", b'<a href="b%20c">b</a>', **html)
    origin.page("/d/a.txt", b"a")
    origin.page("/d/sub/b%20c", b"b")
    await run_get(tmp_path, Order(url=f"{origin.url}/d", output=tmp_path / "out", recursive=True))
    assert names(tmp_path) == ["out/a.txt", "out/sub/b c"]


@given(st.text(max_size=200))
def test_any_page_gives_names_that_are_plain(page: str) -> None:
    for link in (page, f'<a href="{page}">x</a>'):
        for name in parse_index(link, "http://h/d/"):
            assert "/" not in name.removesuffix("/")
            assert name.removesuffix("/") not in {"", ".", ".."}


async def test_local_files_and_directories(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/x").write_bytes(BODY)
    target = tmp_path / "target"
    target.mkdir()
    await run_get(target, Order(url=(source / "sub/x").as_uri(), output=target / "one", digest=DIGEST))
    await run_get(target, Order(url=source.as_uri(), output=target / "all", recursive=True))
    assert names(target) == ["all/sub/x", "one"]
    with pytest.raises(UsageError, match="no source that is known"):
        await run_get(target, Order(url="gopher://h/x", output=target / "x"))


def test_pace() -> None:
    pace = Pace(1000.0)
    assert sum(pace.wait_s(100, 10.0) for _ in range(1)) == 0
    assert pace.wait_s(1000, 10.0) == pytest.approx(1.0)
    assert Pace(None).wait_s(10**9, 0.0) == 0


async def test_a_filesystem_reads_what_is_asked_for(origin: Origin) -> None:
    origin.page("/f", BODY, etag='"v1"')
    filesystem = CafsFileSystem(headers={"X-Mine": "1"}, skip_instance_cache=True)

    def read() -> tuple[bytes, bytes, int]:
        with filesystem.open(f"cafs://{origin.url}/f", block_size=1000) as file:
            file.seek(500_000)
            return file.read(100), filesystem.cat_file(f"{origin.url}/f", -10), file.size

    middle, end, size = await trio.to_thread.run_sync(read)
    assert (middle, end, size) == (BODY[500_000:500_100], BODY[-10:], len(BODY))
    assert all(asked.headers["x-mine"] == "1" for asked in origin.asked)
    assert "bytes=0-" not in {asked.headers.get("range") for asked in origin.asked}
    with pytest.raises(FileNotFoundError):
        await trio.to_thread.run_sync(filesystem.info, f"{origin.url}/nope")


async def push_file(host: str, settings: Settings) -> tuple[Digest, Digest]:
    """BODY as the file of an artifact; returns the digests of the manifest and of the blob."""
    repository = RegistryRepository(host, "get/blobs", settings)
    try:
        await push_bytes(repository, EMPTY_JSON)
        layer = replace(await push_bytes(repository, BODY), annotations={TITLE: "model.bin"})
        manifest = manifest_bytes(EMPTY_CONFIG, [layer])
        return (await repository.push_manifest(manifest, OCI_MANIFEST)).digest, layer.digest
    finally:
        await repository.aclose()


async def test_a_digest_names_a_blob_or_an_artifact(faulty_registry: FaultyRegistry, tmp_path: Path) -> None:
    """docker-registry answers 500 when asked for a blob as a manifest; that is no trouble of its own."""
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=0)
    manifest, blob = await push_file(faulty_registry.host, settings)
    at = f"docker://{faulty_registry.host}/get/blobs@"

    async def got(digest: Digest, **changes: int) -> bytes:
        (tmp_path / "f").unlink(missing_ok=True)
        order = Order(url=at + digest, output=tmp_path / "f")
        await get(replace(settings, **changes), order, SilentProgress())
        return (tmp_path / "f").read_bytes()

    assert await got(blob) == BODY
    assert await got(EMPTY_CONFIG.digest) == EMPTY_JSON
    assert await got(manifest) == BODY
    faulty_registry.fail(Status(404), path=f"manifests/{blob}")  # as other registries do
    assert await got(blob) == BODY
    faulty_registry.heal()
    # A registry that stumbles, and has no such blob or has manifests among its blobs, is asked again.
    faulty_registry.fail(Status(500), path=f"manifests/{manifest}", times=1)
    assert await got(manifest, retries=1) == BODY
    faulty_registry.fail(Status(500), path=f"manifests/{manifest}", times=1)
    faulty_registry.fail(Status(200), method="HEAD", path=f"blobs/{manifest}", times=1)
    assert await got(manifest) == BODY
    with pytest.raises(NotFoundError, match="404"):
        await got(parse_digest("sha256:" + "0" * 64))
    faulty_registry.fail(Status(503), path="manifests/")
    with pytest.raises(RemoteError, match="503"):
        await got(blob)
