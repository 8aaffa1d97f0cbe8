"""What hosts of a grid want of an origin, and what it was asked for."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import trio

from cafs.core.digest import Digest
from cafs.p2p.content import Wish
from tests.support.grid import GridHost
from tests.support.proxying import Origin

MIB = 1 << 20
BODY = os.urandom(5 * MIB + 321)
_WORD = "bytes=0-0"
DIGEST = Digest(f"sha256:{hashlib.sha256(BODY).hexdigest()}")


def sent(origin: Origin, path: str = "/f") -> int:
    """Bytes of ranges that were asked for, without those by which hosts ask whether it is what it was."""
    total = 0
    for asked in origin.asked:
        if asked.target == path and (wanted := asked.headers.get("range")) not in {None, _WORD}:
            assert wanted is not None
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            total += min(int(last), len(BODY) - 1) + 1 - int(first)
    return total


def wish(origin: Origin, path: str = "/f", **more: Any) -> Wish:
    return Wish(url=origin.url + path, **more)


async def all_get(hosts: list[GridHost], wanted: Wish) -> None:
    """Everybody at once, each the right bytes."""

    async def get(host: GridHost) -> None:
        assert await host.get(wanted) == BODY

    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(get, host)
