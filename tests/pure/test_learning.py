"""What is learned of starts: of any starts, in any order, and of what hostile hosts send."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.digest import Digest
from cafs.core.learning import (
    KEPT_STARTS,
    MAX_BYTES,
    MAX_CHUNKS,
    SURE_STARTS,
    choose_profile,
    encode_bounded,
    merge_starts,
    parse_bounded,
)
from cafs.core.profile import MAX_LAYERS, Profile, encode_profile
from cafs.errors import IntegrityError
from cafs.manager.profiles.wanted import MORE_EVERY_S, MOST_OF_HOST, TOLD_WITHIN_S, Learned, Wanted

LAYERS = [Digest(f"sha256:{number:064x}") for number in range(4)]
Chunk = tuple[str, bytes]


def name(number: int) -> bytes:
    return number.to_bytes(8, "big")


def start(layers: list[Digest], chunks: list[tuple[int, int]]) -> Profile:
    """Chunks as (place in ``layers``, number)."""
    return Profile(tuple(layers), tuple((layer, name(number)) for layer, number in chunks))


@st.composite
def any_start(draw: st.DrawFn) -> Profile:
    layers = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4))
    chunk = st.tuples(st.integers(0, len(layers) - 1), st.integers(0, 12))
    return start(layers, draw(st.lists(chunk, max_size=20)))


def named(profile: Profile) -> list[Chunk]:
    return [(profile.layers[layer], prefix) for layer, prefix in profile.chunks]


@given(st.lists(any_start(), max_size=8), st.randoms())
def test_a_chunk_is_learned_if_half_of_those_that_saw_its_layer_read_it(
    starts: list[Profile], random: Random
) -> None:
    learned = merge_starts(starts)
    assert learned.starts == len(starts)
    assert set(learned.layers) == {layer for one in starts for layer in one.layers}
    found = set(named(learned))
    assert len(found) == len(learned.chunks)
    for layer, prefix in {chunk for one in starts for chunk in named(one)}:
        saw = sum(layer in one.layers for one in starts)
        read = sum((layer, prefix) in named(one) for one in starts)
        assert ((layer, prefix) in found) == (read >= saw / 2)
    shuffled = list(starts)
    random.shuffle(shuffled)
    assert merge_starts(shuffled) == learned


@given(any_start(), st.integers(1, 5))
def test_starts_that_are_alike_teach_just_that(one: Profile, count: int) -> None:
    assert named(merge_starts([one] * count)) == list(dict.fromkeys(named(one)))


@given(st.permutations(range(10)), st.integers(0, 2**32))
def test_the_order_is_that_of_most(order: list[int], seed: int) -> None:
    """Two starts that agree are not disturbed by one that reads in any other order."""
    usual = start(LAYERS[:1], [(0, number) for number in order])
    mixed = list(order)
    Random(seed).shuffle(mixed)
    other = start(LAYERS[:1], [(0, number) for number in mixed])
    assert merge_starts([usual, other, usual]).chunks == usual.chunks


def test_too_much_is_cut_at_its_end() -> None:
    one = start(LAYERS[:1], [(0, number) for number in range(MAX_CHUNKS + 5)])
    assert merge_starts([one]).chunks == one.chunks[:MAX_CHUNKS]


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_told_is_bounded(layers: int) -> None:
    """With chunks of two layers in turn a document is several times as long."""
    one = start(LAYERS[:layers], [(number % layers, number) for number in range(2 * MAX_CHUNKS)])
    document = encode_bounded(one)
    assert len(document) <= MAX_BYTES
    told = parse_bounded(document)
    assert told.chunks == one.chunks[: len(told.chunks)]
    assert len(told.chunks) > MAX_CHUNKS / 4


def test_starts_that_name_other_layers_each_teach_no_more_than_can_be_told() -> None:
    """All their layers are more than any document holds, whatever is left out of their chunks."""
    image = tuple(Digest(f"sha256:{number:064x}") for number in range(3))
    honest = [start(image, [(0, number) for number in range(5)])] * 3
    others = [
        start([Digest(f"sha256:{host:032x}{number:032x}") for number in range(MAX_LAYERS)], [(0, 1)])
        for host in range(1, KEPT_STARTS - 2)
    ]
    merged = merge_starts([*others, *honest])
    assert len(merged.layers) == MAX_LAYERS
    assert set(image) <= set(merged.layers)
    assert parse_bounded(encode_bounded(merged)) == merged
    assert set(named(honest[0])) <= set(named(merged))


def test_layers_that_have_no_room_are_told_of() -> None:
    many = [Digest(f"sha256:{number:064x}") for number in range(4 * MAX_LAYERS)]
    with pytest.raises(IntegrityError, match="too many"):
        encode_bounded(start(many, [(0, 1)]))


@pytest.mark.parametrize(
    "document",
    [
        b" " * (MAX_BYTES + 1),
        b"[]",
        encode_profile(start(LAYERS[:1], [(0, number) for number in range(MAX_CHUNKS + 1)])),
        b'{"version": 1, "layers": [], "runs": [], "starts": -1}',
        b'{"version": 1, "layers": [], "runs": [], "starts": true}',
        b'{"version": 1, "layers": [], "runs": [], "starts": 1e9}',
    ],
)
def test_what_is_no_start_is_refused(document: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_bounded(document)


RECORDED = start(LAYERS[:2], [(0, 1), (1, 2)])
DERIVED = Profile(RECORDED.layers, ((0, name(7)), (1, name(8))), is_derived=True)
SURE = Profile(RECORDED.layers, ((1, name(8)), (0, name(9))), starts=SURE_STARTS)
FIRST = Profile(SURE.layers, SURE.chunks, starts=1)
OF_ONE_LAYER = Profile(SURE.layers[1:], ((0, name(8)),), starts=KEPT_STARTS)


def test_a_recorded_profile_counts_most_and_a_derived_one_least() -> None:
    layers = RECORDED.layers
    assert choose_profile(RECORDED, SURE, layers) is RECORDED
    assert choose_profile(DERIVED, None, layers) is DERIVED
    assert choose_profile(DERIVED, Profile(layers, (), starts=5), layers) is DERIVED
    assert choose_profile(DERIVED, SURE, layers) is SURE
    assert choose_profile(None, SURE, layers) is SURE


@pytest.mark.parametrize("learned", [FIRST, OF_ONE_LAYER])
def test_while_little_is_learned_the_derived_one_follows(learned: Profile) -> None:
    chosen = choose_profile(DERIVED, learned, RECORDED.layers)
    assert chosen is not None
    assert chosen.is_derived
    assert named(chosen)[: len(learned.chunks)] == named(learned)
    assert set(named(chosen)) == {*named(learned), *named(DERIVED)}
    assert len(set(chosen.chunks)) == len(chosen.chunks)
    alone = choose_profile(None, learned, RECORDED.layers)
    assert alone is not None
    assert (alone.is_derived, named(alone)) == (True, named(learned))


IMAGE = b"i" * 32


def test_of_ten_thousand_offers_as_many_starts_are_wanted_as_are_kept() -> None:
    wanted = Wanted()
    asked = [host for host in map(str, range(10_000)) if wanted.ask(host, IMAGE, Learned(), 0.0)]
    assert len(asked) == KEPT_STARTS
    assert wanted.ask("1", b"j" * 32, Learned(), 0.0)
    assert [wanted.take(host, IMAGE, 1.0) for host in asked] == [True] * KEPT_STARTS
    assert not wanted.take(asked[0], IMAGE, 1.0)  # once
    assert not wanted.take("nobody", IMAGE, 1.0)
    assert not wanted.ask("x", IMAGE, Learned(KEPT_STARTS, MORE_EVERY_S - 1), 1.0)
    assert wanted.ask("x", IMAGE, Learned(KEPT_STARTS, MORE_EVERY_S), 1.0)
    assert not wanted.ask("y", IMAGE, Learned(KEPT_STARTS, MORE_EVERY_S), 1.0)  # x is at it


def test_a_start_that_a_clock_set_back_has_in_the_future_makes_room() -> None:
    wanted = Wanted()
    assert wanted.ask("x", IMAGE, Learned(KEPT_STARTS, -86_400.0), 1.0)
    assert not wanted.ask("y", IMAGE, Learned(KEPT_STARTS, -86_400.0), 1.0)


def test_who_does_not_tell_makes_room_for_others() -> None:
    wanted = Wanted()
    for host in map(str, range(KEPT_STARTS)):
        assert wanted.ask(host, IMAGE, Learned(), 0.0)
    assert not wanted.ask("late", IMAGE, Learned(), TOLD_WITHIN_S)
    assert wanted.ask("late", IMAGE, Learned(), TOLD_WITHIN_S + 1)
    assert not wanted.take("0", IMAGE, TOLD_WITHIN_S + 1)
    assert wanted.take("late", IMAGE, TOLD_WITHIN_S + 2)


def test_one_host_is_asked_for_few_starts_at_once() -> None:
    wanted = Wanted()
    asked = [wanted.ask("host", name(number) * 4, Learned(), 0.0) for number in range(100)]
    assert sum(asked) == MOST_OF_HOST
