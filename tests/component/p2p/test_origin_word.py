"""How long an origin that says nothing is waited for, of which others hold a content already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio

from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.task import TaskSpec
from cafs.p2p.origin_word import ORIGIN_S, SILENT_S, OriginWord
from cafs.p2p.source import SourceAnswer, Sources
from cafs.p2p.source_runs import Origin

ORIGIN = Origin(url="http://192.0.2.1/file")
SPEC = TaskSpec(task_id=TaskId("1" * 64), url=ORIGIN.url)


class NoAnswers:
    """Of ``Sources``: requests that nobody answers."""

    def __init__(self, *, room: bool) -> None:
        self.room = room
        self.asked = 0

    def has_room(self, _url: str) -> bool:
        return self.room

    @asynccontextmanager
    async def open(self, *_what: object, **_how: object) -> AsyncIterator[SourceAnswer]:
        self.asked += 1
        await trio.sleep_forever()
        yield cast("Any", None)


async def seconds_for_a_word(word: OriginWord) -> float:
    began = trio.current_time()
    assert await word.say(SPEC, ORIGIN, None) is None
    return trio.current_time() - began


async def test_a_silent_origin_is_waited_for_once_in_a_while(autojump_clock: object) -> None:
    sources = NoAnswers(room=True)
    word = OriginWord(cast("Sources", sources))
    assert await seconds_for_a_word(word) == pytest.approx(ORIGIN_S)
    assert (await seconds_for_a_word(word), sources.asked) == (0, 1)
    await trio.sleep(SILENT_S)
    assert await seconds_for_a_word(word) == pytest.approx(ORIGIN_S)


async def test_an_origin_for_which_our_requests_queue_is_not_called_silent(autojump_clock: object) -> None:
    sources = NoAnswers(room=False)
    word = OriginWord(cast("Sources", sources))
    for times in (1, 2):
        assert await seconds_for_a_word(word) == pytest.approx(ORIGIN_S)
        assert sources.asked == times
