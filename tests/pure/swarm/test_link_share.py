"""What a fill leaves of a link to readers."""

from __future__ import annotations

import pytest

from cafs.core.swarm.link_share import LOOK_BYTES, LOOK_EVERY_S, PASSED_BYTES, READERS_S, SHARE, LinkShare

RATE = 25_000_000
PART = 32 << 10
CHUNK = 64 << 10


class Link:
    """Carries ``rate`` bytes a second, and what it may pass at once after a rest."""

    def __init__(self, share: LinkShare, *, rate: int = RATE, at_once: int = 0) -> None:
        self.share = share
        self.now = 100.0
        self.rate = rate
        self._at_once = at_once
        self._free_at = self.now

    def carry(self, count: int) -> None:
        begun = max(self._free_at, self.now - self._at_once / self.rate)
        self._free_at = begun + count / self.rate
        self.now = max(self.now, self._free_at)

    def fill(self, seconds: float, *, read_every_s: float = 0.0) -> int:
        """Take the fill for so long, and now and then a chunk for a reader; bytes that came."""
        end, next_read, came = self.now + seconds, self.now, 0
        while self.now < end:
            if read_every_s and self.now >= next_read:
                self.carry(CHUNK)
                self.share.note_read(CHUNK, self.now)
                next_read, came = next_read + read_every_s, came + CHUNK
            self.carry(PART)
            self.now += self.share.rest_s(PART, self.now)
            came += PART
        return came


def test_alone_a_fill_has_the_whole_link() -> None:
    link = Link(LinkShare())
    assert link.fill(10.0) == pytest.approx(10 * RATE, rel=0.01)


@pytest.mark.parametrize("at_once", [0, PASSED_BYTES // 2])
def test_next_to_readers_something_is_left(at_once: int) -> None:
    link = Link(LinkShare(), at_once=at_once)
    link.fill(1.0)
    assert link.fill(20.0, read_every_s=0.03) == pytest.approx(20 * RATE * SHARE, rel=0.03)


def test_a_while_after_the_last_read_it_has_the_link_again() -> None:
    link = Link(LinkShare())
    link.fill(1.0)
    link.fill(1.0, read_every_s=0.03)
    link.fill(READERS_S)
    assert link.fill(5.0) == pytest.approx(5 * RATE, rel=0.01)


def test_it_follows_a_link_that_becomes_another() -> None:
    link = Link(LinkShare())
    link.fill(1.0)
    for rate in (RATE // 5, RATE * 4):
        link.rate = rate
        link.fill(10 * LOOK_EVERY_S, read_every_s=0.03)
        came = link.fill(10.0, read_every_s=0.03)
        assert 0.8 * 10 * rate < came < (SHARE + 0.03) * 10 * rate


def test_what_lay_there_already_is_no_measure() -> None:
    share = LinkShare()
    now = 0.0
    for _ in range(2 * (PASSED_BYTES + LOOK_BYTES) // PART):
        share.note_gap()
        assert not share.rest_s(PART, now)  # came at once, as far as anybody can tell
    share.note_read(CHUNK, now)
    assert not share.rest_s(PART, now + 0.001)  # so nobody knows what the link carries
