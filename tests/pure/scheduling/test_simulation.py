"""Swarms of simulated hosts under the real core: all finish, the origin sends one copy, time grows slowly."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases.swarm_simulation import plot
from bench.swarm.simulation import Outcomes, Scenario, Simulation, lower_bound_rounds

_FEW, _MANY = 1_000, 10_000
_PIECES = 8
"""Few: what a host costs the scheduler does not depend on them. ``bench`` simulates more, of more hosts."""


@pytest.mark.timeout(600)
def test_ten_thousand_hosts_with_churn_slow_hosts_and_liars_take_little_longer_than_a_thousand() -> None:
    """Ten times the hosts, and the rounds grow by a few; the origin sends one copy whatever happens."""

    def simulate(hosts: int) -> Outcomes:
        return Simulation(Scenario(hosts=hosts, pieces=_PIECES, dying=0.1, slow=0.1, liars=0.05)).run()

    few, many = simulate(_FEW), simulate(_MANY)
    for found, hosts in ((few, _FEW), (many, _MANY)):
        assert found.finished == found.wanted
        assert found.wanted >= hosts * 0.8
        assert found.origin_copies == 1
    assert many.seed_copies <= 2
    assert many.rounds <= few.rounds + 20
    assert many.rounds <= 4.5 * lower_bound_rounds(Scenario(hosts=_MANY, pieces=_PIECES))
    # Liars blame others, so a few of those who are shunned are honest.
    assert many.shunned_liars > 0.9 * 0.9 * 0.05 * _MANY
    assert many.shunned_honest < 0.02 * _MANY


@pytest.mark.parametrize(
    "trouble", [{"dying": 0.1}, {"slow": 0.1}, {"liars": 0.05}, {"seeds": 0}, {"dying": 0.1, "liars": 0.05}]
)
def test_trouble_costs_time_and_never_a_second_copy(trouble: dict[str, Any]) -> None:
    """One at a time; ``bench`` has them at 10,000 hosts."""
    found = Simulation(Scenario(hosts=300, pieces=_PIECES, **trouble)).run()
    assert found.finished == found.wanted
    assert found.wanted >= 300 * 0.8
    assert found.origin_copies == 1
    assert found.rounds < 150
    assert found.shunned_honest < 30


def test_the_plot_has_a_bar_for_each_size() -> None:
    assert plot({10: 5, 1000: 10}).splitlines()[1].startswith("    1,000 ████")
