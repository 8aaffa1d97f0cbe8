"""Who may do what, and how guesses are slowed down."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.manager.users.roles import Caller, Need, Role, Scope, Where, refusal
from cafs.manager.users.throttle import Key, Throttle, keys_of

ROLES = [None, *Role]


def caller(role: Role | None, in_seven: Role | None = None, scopes: frozenset[str] | None = None) -> Caller:
    roles = {} if in_seven is None else {7: in_seven}
    return Caller(
        account_id=1, name="a", role=role, cluster_roles=roles, token_id=1, by="session", scopes=scopes
    )


@pytest.mark.parametrize(("held", "needed"), list(itertools.product(ROLES, Role)))
def test_a_role_may_what_the_ones_below_may(held: Role | None, needed: Role) -> None:
    rank = {role: rank for rank, role in enumerate(ROLES)}
    for where in Where:
        assert (refusal(caller(held), Need(needed, Scope.USERS_READ, where), 7) == "") == (
            rank[held] >= rank[needed]
        )


@pytest.mark.parametrize("role", Role)
def test_a_clusters_role_holds_there_only(role: Role) -> None:
    holder = caller(None, role)
    assert refusal(holder, Need(role, None, Where.CLUSTER), 7) == ""
    assert refusal(holder, Need(role, None, Where.SOMEWHERE)) == ""
    assert refusal(holder, Need(role, None, Where.CLUSTER), 8)
    assert refusal(holder, Need(role, None, Where.CLUSTER), None)
    assert refusal(holder, Need(role, None, Where.EVERYWHERE), 7)
    assert holder.clusters() == {7}
    assert caller(Role.VIEWER).clusters() is None


def test_the_higher_role_counts() -> None:
    assert caller(Role.VIEWER, Role.ADMIN).role_in(7) is Role.ADMIN
    assert caller(Role.OPERATOR, Role.VIEWER).role_in(7) is Role.OPERATOR


@pytest.mark.parametrize("scope", Scope)
def test_a_token_does_what_its_scopes_say_and_its_account_may(scope: Scope) -> None:
    need = Need(Role.VIEWER, scope)
    others = frozenset(Scope) - {scope}
    assert refusal(caller(Role.VIEWER, scopes=frozenset([scope])), need) == ""
    assert "scope" in refusal(caller(Role.ADMIN, scopes=others), need)
    assert "role" in refusal(caller(None, scopes=frozenset(Scope)), need)
    assert "sign in" in refusal(caller(Role.ADMIN, scopes=frozenset(Scope)), Need(None, None))


def test_guesses_wait_longer_and_longer_and_the_right_one_ends_it() -> None:
    throttle, key, now = Throttle(), (Key("x", 3, 100),), 0.0
    waits = []
    for _ in range(12):
        waits.append(throttle.attempt(key, now))
        if waits[-1]:
            now += waits[-1]
            assert throttle.attempt(key, now) == 0
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert throttle.attempt(key, now) > 0
    throttle.was_right(key)
    assert throttle.attempt(key, now) == 0


def test_many_guesses_at_once_are_no_way_round() -> None:
    throttle, keys = Throttle(), keys_of("root", "192.0.2.1")
    assert sum(throttle.attempt(keys, 5.0) == 0 for _ in range(1000)) == 6


def test_nobody_is_locked_out_by_guesses_from_elsewhere() -> None:
    throttle, now = Throttle(), 0.0
    for number in range(10_000):
        throttle.attempt(keys_of("root", f"192.0.{number % 250}.{number % 199}"), now)
        now += 0.01
    assert throttle.attempt(keys_of("root", "198.51.100.1"), now) <= 30


@given(st.lists(st.tuples(st.integers(0, 30_000), st.booleans()), max_size=50))
def test_guesses_of_long_ago_are_forgotten(steps: list[tuple[int, bool]]) -> None:
    throttle = Throttle()
    for number, right in steps:
        keys = keys_of("n", str(number))
        if throttle.attempt(keys, 0.0) == 0 and right:
            throttle.was_right(keys)
    assert throttle.attempt(keys_of("n", "x"), 4000.0) == 0
