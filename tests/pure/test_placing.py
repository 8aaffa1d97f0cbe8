"""Which cluster a host finds."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.manager.clusters.placing import (
    WEIGHTS,
    Candidate,
    Place,
    Scopes,
    find_cluster,
    parts_of,
    score_of,
)

DEFAULT = Scopes(default=True)
HOST = Place(ipaddress.ip_address("10.1.2.3"), "GPU-7.lan", "fra1", ("europe", "zone3", "rack7"))


def scopes(**told: Any) -> Scopes:
    networks = tuple(map(ipaddress.ip_network, told.pop("cidrs", ())))
    return Scopes(cidrs=networks, **told)


def found(*clusters: Scopes, host: Place = HOST) -> int | None:
    """Which of these takes the host, counted from 1."""
    candidates = [Candidate(number, str(number), each) for number, each in enumerate(clusters, 1)]
    best = find_cluster(candidates, host)
    return best.id if best is not None else None


def test_the_weights_are_a_whole() -> None:
    assert sum(WEIGHTS) == pytest.approx(1)


def test_the_default_takes_whom_nobody_else_wants() -> None:
    assert found(DEFAULT) == 1
    assert found(Scopes()) is None
    assert found() is None
    for wants in (
        scopes(cidrs=["10.0.0.0/8"]),
        scopes(hostnames=("gpu-*",)),
        scopes(idcs=frozenset({"fra1"})),
        scopes(locations=(("europe",),)),
    ):
        assert found(DEFAULT, wants) == 2
    for does_not in (
        scopes(cidrs=["11.0.0.0/8", "::/0"]),
        scopes(hostnames=("cpu-*", "gpu")),
        scopes(idcs=frozenset({"fra"})),
        scopes(locations=(("asia", "zone3"),)),
    ):
        assert found(DEFAULT, does_not) == 1


def test_the_longer_network_and_the_closer_location_win() -> None:
    assert found(scopes(cidrs=["10.0.0.0/8"]), scopes(cidrs=["10.1.0.0/16", "12.0.0.0/30"])) == 2
    near, far = ("europe", "zone3"), ("europe", "zone4")
    assert found(scopes(locations=(far,)), scopes(locations=(near,))) == 2


def test_of_equal_ones_the_older_wins() -> None:
    assert found(scopes(idcs=frozenset({"fra1"})), scopes(idcs=frozenset({"fra1", "b"}))) == 1


def test_an_unknown_data_centre_is_nobodys() -> None:
    nowhere = Place(ipaddress.ip_address("::1"), "", "", ())
    assert found(scopes(idcs=frozenset({""})), DEFAULT, host=nowhere) == 2


def test_patterns_that_are_made_to_take_long_do_not() -> None:
    wants = scopes(hostnames=("*a" * 120 + "b",))
    assert found(wants, DEFAULT, host=Place(HOST.address, "a" * 255)) == 2


words = st.sampled_from(["", "a", "b", "europe", "fra1", "gpu-7.lan"])
places = st.builds(Place, st.ip_addresses(), words, words, st.lists(words, max_size=5).map(tuple))
networks = st.ip_addresses().map(ipaddress.ip_network)
wanted = st.builds(
    Scopes,
    cidrs=st.lists(networks, max_size=3).map(tuple),
    hostnames=st.lists(st.sampled_from(["*", "a*", "?", "[ab]", "gpu-*"]), max_size=3).map(tuple),
    idcs=st.frozensets(words),
    locations=st.lists(st.lists(words, min_size=1, max_size=5).map(tuple), max_size=3).map(tuple),
    default=st.booleans(),
)


@given(st.lists(wanted, max_size=6), places)
def test_the_best_score_is_found_whatever_there_is(clusters: list[Scopes], place: Place) -> None:
    scores = [score_of(parts_of(each, place)) for each in clusters]
    assert all(0 <= score <= 1.000001 for score in scores)
    chosen = found(*clusters, host=place)
    if chosen is None:
        assert not any(scores)
    else:
        assert scores[chosen - 1] == max(scores)
        assert scores.index(max(scores)) == chosen - 1
