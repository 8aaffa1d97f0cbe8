"""Sources that are not HTTP's, through swarms: a peer reads them by their drivers, for whom it may."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from cafs.core.swarm.ids import OWN_CREDENTIALS
from cafs.errors import UsageError
from cafs.p2p.content import OriginError, Wish
from cafs.p2p.drivers import Drivers, facts_of
from cafs.p2p.engine import spec_of
from cafs.p2p.source import ChangedError, Limits, Sources, Unpaced
from tests.support.grid import PATIENCE, grid
from tests.support.patience import PATIENCE_S

BODY = os.urandom((3 << 20) + 77)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "f").write_bytes(BODY)
    return folder


def wish(path: Path) -> Wish:
    return Wish(url=path.as_uri(), headers=(OWN_CREDENTIALS,))


async def test_a_shared_directory_is_read_once_by_two_hosts(tmp_path: Path, shared: Path) -> None:
    async with grid(tmp_path) as hosts:
        hosts.drivers = Drivers((shared,))
        first, second = await hosts.host(), await hosts.host()
        assert await first.get(wish(shared / "f")) == BODY
        assert await second.get(wish(shared / "f")) == BODY
        assert first.figures.source_bytes == len(BODY)
        assert (second.figures.peer_bytes, second.figures.source_bytes) == (len(BODY), 0)
        part = replace(wish(shared / "f"), first_byte=(1 << 20) - 3, last_byte=(1 << 20) + 3)
        assert await second.get(part) == BODY[(1 << 20) - 3 : (1 << 20) + 4]


async def test_a_file_that_changed_is_another_content(tmp_path: Path, shared: Path) -> None:
    async with grid(tmp_path, scheduled=False) as hosts:
        hosts.drivers = Drivers((shared,))
        host = await hosts.host()
        assert await host.get(wish(shared / "f")) == BODY
        (shared / "f").write_bytes(BODY[:-1])
        assert await host.get(wish(shared / "f")) == BODY[:-1]


async def test_what_a_source_refuses(tmp_path: Path, shared: Path) -> None:
    async with grid(tmp_path, scheduled=False) as hosts:
        hosts.drivers = Drivers((shared,))
        host = await hosts.host()
        (shared / "a b#c%20").write_bytes(b"odd")
        assert await host.get(wish(shared / "a b#c%20")) == b"odd"
        with pytest.raises(OriginError) as missing:
            await host.get(wish(shared / "none"))
        assert missing.value.status == 404
        (shared / "empty").touch()
        assert await host.get(wish(shared / "empty")) == b""
        with pytest.raises(UsageError, match="directory"):
            await host.get(wish(shared))


@pytest.mark.parametrize("how", ["outside", "dots", "link", "no mark", "scheme", "chain", "fragment"])
async def test_what_a_peer_does_not_read(tmp_path: Path, shared: Path, how: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s3cr3t")
    (shared / "link").symlink_to(secret)
    url, headers = {
        "outside": (secret.as_uri(), (OWN_CREDENTIALS,)),
        "dots": (f"{shared.as_uri()}/../secret", (OWN_CREDENTIALS,)),
        "link": (f"{shared.as_uri()}/link", (OWN_CREDENTIALS,)),
        "no mark": ((shared / "f").as_uri(), ()),
        "scheme": ("memory://x", (OWN_CREDENTIALS,)),
        "chain": (f"file://{shared}/f::http://h.example/", (OWN_CREDENTIALS,)),
        "fragment": ("s3://bucket/key#1", (OWN_CREDENTIALS,)),
    }[how]
    sources = Sources(PATIENCE, Limits(), Unpaced(), drivers=Drivers((shared,)))
    with pytest.raises(UsageError):
        async with sources.open(url, headers, None, None, None):
            pass
    await sources.aclose()


async def test_a_file_that_changes_while_it_is_read(shared: Path) -> None:
    sources = Sources(PATIENCE, Limits(), Unpaced(), drivers=Drivers((shared,)))
    with trio.fail_after(PATIENCE_S):
        async with sources.open((shared / "f").as_uri(), (OWN_CREDENTIALS,), 0, None, None) as answer:
            assert (answer.content_bytes, answer.takes_ranges) == (len(BODY), True)
            (shared / "f").write_bytes(BODY + b"x")
            with pytest.raises(ChangedError):
                await answer.receive()
    await sources.aclose()


def test_with_credentials_it_is_private_and_without_it_is_everybodys() -> None:
    own = spec_of(Wish(url="s3://bucket/key", headers=(OWN_CREDENTIALS,)))
    anybodys = spec_of(Wish(url="s3://bucket/key"))
    assert (own.private, own.seedable) == (True, False)
    assert (anybodys.private, anybodys.seedable) == (False, True)
    assert own.task_id != anybodys.task_id


def test_facts_of_what_drivers_say() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    s3 = facts_of({"size": 5, "ETag": '"abc"', "LastModified": when, "type": "file"})
    assert (s3.size, s3.etag, s3.last_modified) == (5, '"abc"', "Fri, 02 Jan 2026 03:04:05 GMT")
    local = facts_of({"size": 5, "mtime": 1.5, "type": "file"})
    assert local.etag == '"1.5-5"'
    assert facts_of({"size": None}).headers == (("cache-control", "no-cache"),)
