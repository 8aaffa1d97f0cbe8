"""``cafs get`` after a try that broke off, beside another, or for what cannot be: never a wrong file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import trio

from cafs.core.digest import parse_digest
from cafs.core.settings import Settings
from cafs.download import recursive
from cafs.download.get import Order
from cafs.download.partial import Identity, PartialFile
from cafs.errors import DeadlineError, IntegrityError, NotFoundError, RemoteError, StateError, UsageError
from cafs.http11.messages import Reply, Request, refusal
from tests.component import test_get
from tests.component.test_get import Watch, names, push_file, run_get
from tests.support.faults import FaultyRegistry, IgnoreRange
from tests.support.node_sockets import listening
from tests.support.proxying import serve_origin

BODY = os.urandom(1 << 16)
DIGEST = parse_digest("sha256:" + hashlib.sha256(BODY).hexdigest())


def left_behind(target: Path, identity: Identity, content: bytes) -> None:
    with PartialFile(target) as partial:
        partial.begin(identity, 0)
        partial.write(content)


async def test_another_range_of_the_same_digest_is_begun_anew(tmp_path: Path) -> None:
    target = tmp_path / "f"
    async with serve_origin() as origin:
        origin.page("/f", BODY)
        order = Order(url=f"{origin.url}/f", output=target, digest=DIGEST, first_byte=10, last_byte=29)
        left_behind(target, Identity(order.url, DIGEST, "", "", len(BODY), 10, 29), BODY[10:20])
        await run_get(tmp_path, replace(order, first_byte=1000, last_byte=1999))
        assert target.read_bytes() == BODY[1000:2000]
        left_behind(target, Identity(order.url, DIGEST, "", "", len(BODY), 10, 29), BODY[10:20])
        await run_get(tmp_path, replace(order, first_byte=0, last_byte=None))
        assert target.read_bytes() == BODY


async def test_the_same_range_goes_on_wherever_it_comes_from(tmp_path: Path) -> None:
    target = tmp_path / "f"
    async with serve_origin() as origin:
        origin.page("/f", BODY)
        left_behind(target, Identity("http://other/f", DIGEST, "", "", len(BODY), 10, 29), BODY[10:20])
        order = Order(url=f"{origin.url}/f", output=target, digest=DIGEST, first_byte=10, last_byte=29)
        await run_get(tmp_path, order)
        assert origin.asked[0].headers["range"] == "bytes=20-29"
    assert target.read_bytes() == BODY[10:30]


async def test_a_registry_that_ignores_ranges(faulty_registry: FaultyRegistry, tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=1)
    _, blob = await push_file(faulty_registry.host, settings)
    faulty_registry.fail(IgnoreRange(), path="/blobs/")
    url = f"docker://{faulty_registry.host}/get/blobs@{blob}"
    whole = Order(url=url, output=tmp_path / "whole")
    await run_get(tmp_path, whole)
    for first, last in ((3, 7), (3, None), (0, 7)):
        target = tmp_path / f"{first}-{last}"
        await run_get(tmp_path, replace(whole, output=target, first_byte=first, last_byte=last))
        assert target.read_bytes() == whole.output.read_bytes()[first : None if last is None else last + 1]


@pytest.mark.parametrize("last", [None, 29])
async def test_all_came_and_only_the_name_is_missing(tmp_path: Path, last: int | None) -> None:
    target = tmp_path / "f"
    wanted = BODY[10:] if last is None else BODY[10 : last + 1]
    async with serve_origin() as origin:
        origin.page("/f", BODY, etag='"v1"')
        order = Order(url=f"{origin.url}/f", output=target, first_byte=10, last_byte=last)
        left_behind(target, Identity(order.url, "", '"v1"', "", len(BODY), 10, last), wanted)
        await run_get(tmp_path, order)
    assert target.read_bytes() == wanted


async def test_all_of_a_file_came_and_only_the_name_is_missing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "f"
    source.write_bytes(BODY)
    order = Order(url=source.as_uri(), output=target)
    await run_get(tmp_path, order)
    target.rename(tmp_path / "f.part")
    changed = source.stat().st_mtime
    left_behind(target, Identity(order.url, etag=f'"{changed}-{len(BODY)}"', content_bytes=len(BODY)), BODY)
    await run_get(tmp_path, order)
    assert target.read_bytes() == BODY


async def test_two_at_once_do_not_write_one_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    async with serve_origin() as origin:
        origin.page("/f", BODY)
        order = Order(url=f"{origin.url}/f", output=target)
        with PartialFile(target) as other:
            other.begin(Identity(order.url, etag='"v1"', content_bytes=len(BODY)), 0)
            other.write(BODY[:100])
            with pytest.raises(StateError, match="another download"):
                await run_get(tmp_path, order)
            other.write(BODY[100:])
            other.finish()
        assert target.read_bytes() == BODY
        await run_get(tmp_path, order)
    assert names(tmp_path) == ["f"]


async def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """/dev/null, say, whose directory root may write."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "out/a").mkdir(parents=True)
    async with serve_origin() as origin:
        origin.page("/f", BODY)
        origin.page("/d/", b'<a href="a">a</a>', content_type="text/html")
        for name in ("pipe", "link"):
            with pytest.raises(UsageError, match="no regular file"):
                await run_get(tmp_path, Order(url=f"{origin.url}/f", output=tmp_path / name))
        with pytest.raises(UsageError, match="no regular file"):
            await run_get(tmp_path, Order(url=f"{origin.url}/d/", output=tmp_path / "out", recursive=True))
        assert [asked.target for asked in origin.asked] == ["/d/"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == []


async def test_directories_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recursive, "_MAX_FILES", 1000)
    page = "".join(f'<a href="{number}/">x</a>' for number in range(100)).encode()
    async with serve_origin() as origin:
        for depth in range(65):
            origin.page("/d/" + "99/" * depth, page, content_type="text/html")
        with pytest.raises(UsageError, match="too many files"):
            await run_get(tmp_path, Order(url=f"{origin.url}/d/", output=tmp_path / "o", recursive=True))
        assert len(origin.asked) < 12
    assert names(tmp_path) == []


async def test_what_a_registry_has_must_have_the_digest_that_is_given(
    faulty_registry: FaultyRegistry, tmp_path: Path
) -> None:
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=1)
    manifest, blob = await push_file(faulty_registry.host, settings)
    order = Order(url=f"docker://{faulty_registry.host}/get/blobs@{manifest}", output=tmp_path / "f")
    with pytest.raises(IntegrityError, match="it was not fetched"):
        await run_get(tmp_path, replace(order, digest=DIGEST))
    assert names(tmp_path) == []
    await run_get(tmp_path, replace(order, digest=blob))
    assert names(tmp_path) == ["f"]


async def test_headers_are_for_those_who_are_asked_with_some(tmp_path: Path) -> None:
    for url in ("docker://127.0.0.1:1/a:b", "s3://bucket/key", tmp_path.as_uri()):
        with pytest.raises(UsageError, match="--header"):
            await run_get(tmp_path, Order(url=url, output=tmp_path / "f", headers=(("x-mine", "1"),)))


@pytest.mark.parametrize(("status", "error"), [(502, RemoteError), (504, DeadlineError)])
async def test_what_the_peer_gave_up_is_not_begun_again(
    short_tmp_path: Path, tmp_path: Path, status: int, error: type[RemoteError]
) -> None:
    """It has tried five times already, with pauses that grow to a minute."""
    path, asked = short_tmp_path / "n", []

    async def answer(request: Request, reply: Reply) -> None:
        asked.append(request.path)
        await reply.send(refusal(status, "the origin is left alone", "unreachable"))

    async with listening(path, answer):
        order = Order(url="http://127.0.0.1:1/f", output=tmp_path / "f", node_socket=path)
        with pytest.raises(error, match="left alone"):
            await run_get(tmp_path, order)
    assert asked == ["/v1/download"]


async def test_what_lets_somebody_in_is_not_kept_beside_a_part(tmp_path: Path) -> None:
    """Drivers take a user and a password in the address; the attribute is as readable as the file."""
    fsspec.filesystem("memory").pipe("/user:secret@host/f", test_get.BODY)
    order = Order(url="memory://user:secret@host/f", output=tmp_path / "f", bytes_per_s=1.0)
    watch = Watch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_get, tmp_path, order, watch)
        await watch.half.wait()
        nursery.cancel_scope.cancel()
    kept = os.getxattr(tmp_path / "f.part", "user.cafs.download")
    assert b"memory://host/f" in kept
    assert b"secret" not in kept


async def test_whole_files_of_a_directory_do_not_come_again(tmp_path: Path) -> None:
    pages = {"a": BODY, "b": BODY[1:], "c": BODY[2:], "d": b""}
    async with serve_origin() as origin:
        links = "".join(f'<a href="{name}">x</a>' for name in pages)
        origin.page("/d/", links.encode(), content_type="text/html")
        for name, body in pages.items():
            origin.page(f"/d/{name}", body, etag=f'"{name}"')
        order = Order(url=f"{origin.url}/d/", output=tmp_path / "o", recursive=True)

        async def received() -> dict[str, int]:
            got = await run_get(tmp_path, order)
            for name, body in pages.items():
                assert (order.output / name).read_bytes() == body
            return {file.path.name: file.received_bytes for file in got.files if file.received_bytes}

        assert await received() == {"a": len(BODY), "b": len(BODY) - 1, "c": len(BODY) - 2}
        assert await received() == {}
        (order.output / "a").write_bytes(BODY[::-1])  # by somebody else
        pages["b"] = BODY[:-1]  # of the same length
        origin.page("/d/b", pages["b"], etag='"b2"')
        os.truncate(order.output / "c", 7)
        assert await received() == {"a": len(BODY), "b": len(BODY) - 1, "c": len(BODY) - 2}
        origin.page("/d/c", b"gone", 404)
        with pytest.raises(NotFoundError):
            await received()


async def test_whole_files_of_an_artifact_do_not_come_again(
    faulty_registry: FaultyRegistry, tmp_path: Path
) -> None:
    settings = Settings(cache_dir=tmp_path / "cache", run_dir=tmp_path / "run", retries=1)
    manifest, _ = await push_file(faulty_registry.host, settings)
    (tmp_path / "o").mkdir()
    order = Order(url=f"docker://{faulty_registry.host}/get/blobs@{manifest}", output=tmp_path / "o")
    for expected in (len(test_get.BODY), 0):
        assert [file.received_bytes for file in (await run_get(tmp_path, order)).files] == [expected]
    [path] = (tmp_path / "o").iterdir()
    changed = path.stat().st_mtime_ns
    path.write_bytes(test_get.BODY[::-1])
    os.utime(path, ns=(changed, changed))
    await run_get(tmp_path, order)
    assert path.read_bytes() == test_get.BODY
