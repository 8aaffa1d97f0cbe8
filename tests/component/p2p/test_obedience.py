"""What a peer does with its cluster's live configuration: limits on top of its own, wishes judged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cafs.core.live.document import parse_document
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.errors import StateError, UsageError
from cafs.p2p.content import Wish
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.manager import Obedience
from cafs.p2p.wish_policy import WishPolicy
from tests.support.grid import grid
from tests.support.proxying import Origin

BODY = os.urandom(3 << 20)


async def test_the_managers_word_lies_on_top_of_the_peers_own() -> None:
    own = PeerLimits(concurrent_uploads=5, concurrent_pieces=6)
    limits, policy = LiveLimits(own), WishPolicy()
    obedience = Obedience(own, limits, policy)
    obedience.obey(parse_document({"peer": {"concurrent_uploads": 17}, "block": [{"tag": "x"}]}, "seed"))
    assert (limits.now.concurrent_uploads, limits.now.concurrent_pieces) == (17, 6)
    obedience.read_anew(PeerLimits(concurrent_uploads=9, concurrent_pieces=8))
    assert (limits.now.concurrent_uploads, limits.now.concurrent_pieces) == (17, 8)
    obedience.obey(parse_document({}, "seed"))
    assert (limits.now.concurrent_uploads, limits.now.concurrent_pieces) == (9, 8)
    assert not policy.rules.block


async def test_a_rate_of_the_managers_holds_at_once_for_who_waits_already() -> None:
    limits = LiveLimits(PeerLimits(upload_bytes_per_s=1))
    obedience = Obedience(limits.now, limits, WishPolicy())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.upload.spend, 10 << 20)
        await trio.testing.wait_all_tasks_blocked()
        obedience.obey(parse_document({"peer": {"upload_bytes_per_s": 0}}, "seed"))


def test_a_wish_is_judged() -> None:
    policy = WishPolicy()
    document = {
        "block": [{"application": "batch", "priority": 3}],
        "applications": [{"name": "ml", "priority": 5}, {"name": "none", "priority": 0}],
    }
    policy.rules = parse_document(document, "seed").wishes
    assert policy.judge(Wish(url="http://o/f")) == Wish(url="http://o/f")
    assert policy.judge(Wish(url="http://o/f", application="ml")).priority == 5
    assert policy.judge(Wish(url="http://o/f", application="ml", priority=2)).priority == 2
    assert policy.judge(Wish(url="http://o/f", application="batch", priority=4)).priority == 4
    for blocked in (
        Wish(url="http://o/f", application="batch"),
        Wish(url="http://o/f", application="none"),
        Wish(url="http://o/f", priority=0),
    ):
        with pytest.raises(StateError, match="blocked"):
            policy.judge(blocked)


async def test_an_engine_fulfils_what_is_not_blocked(tmp_path: Path, origin: Origin) -> None:
    origin.page("/wanted", BODY)
    origin.page("/forbidden", BODY)
    async with grid(tmp_path) as made:
        host = await made.host()
        host.means.policy.rules = parse_document({"block": [{"url": "/forbidden$"}]}, "seed").wishes
        assert await host.get(Wish(url=origin.url + "/wanted")) == BODY
        with pytest.raises(StateError, match="blocked by the cluster's configuration: url /forbidden"):
            await host.get(Wish(url=origin.url + "/forbidden"))
        assert host.figures.source_bytes == len(BODY)


async def test_what_cannot_be_changes_nothing() -> None:
    limits, policy = LiveLimits(PeerLimits()), WishPolicy()
    obedience = Obedience(limits.now, limits, policy)
    live = parse_document({"block": [{"tag": "x"}]}, "seed")
    with pytest.raises(UsageError):
        obedience.obey(type(live)(peer={"no_such_limit": 1}, wishes=live.wishes))
    assert (limits.now, policy.rules.block) == (PeerLimits(), ())
