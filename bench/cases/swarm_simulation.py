"""How long a swarm takes as it grows: the scheduler's own core, simulated links."""

from __future__ import annotations

import math
from itertools import pairwise

from bench.place import Place
from bench.report import Result, Row
from bench.swarm.simulation import Outcomes, Scenario, Simulation, lower_bound_rounds

_SIZES = (100, 1_000, 10_000, 100_000)
_TROUBLED = 10_000
_TROUBLES = {
    "10% die midway": {"dying": 0.1},
    "10% have a tenth of the upload": {"slow": 0.1},
    "5% give wrong bytes and blame others": {"liars": 0.05},
    "these three at once": {"dying": 0.1, "slow": 0.1, "liars": 0.05},
    "no seed": {"seeds": 0},
}
_PLOT_WIDTH = 48


def run_case(place: Place) -> Result:
    grown = {}
    for hosts in _SIZES:
        grown[hosts] = Simulation(Scenario(hosts=hosts)).run()
        place.say(f"{hosts:,} hosts: {grown[hosts].rounds} rounds")
    rows = [_row(f"{hosts:,} hosts", Scenario(hosts=hosts), found) for hosts, found in grown.items()]
    for name, trouble in _TROUBLES.items():
        scenario = Scenario(hosts=_TROUBLED, **trouble)  # type: ignore[arg-type]  # floats, but for "seeds"
        found = Simulation(scenario).run()
        place.say(f"{_TROUBLED:,} hosts, {name}: {found.rounds} rounds")
        rows.append(_row(f"{_TROUBLED:,} hosts, {name}", scenario, found))
    rows.append(_growth(grown))
    return Result(
        "swarm_simulation",
        "Swarms, simulated",
        "32 pieces, one origin that gives two pieces a round, one seed with four times the usual upload. A"
        " round is the time of one piece on a usual link; the bound is all pieces and log2 of the hosts. All"
        " begin at once.\n\n"
        f"```\n{plot({hosts: found.rounds for hosts, found in grown.items()})}\n```",
        tuple(rows),
        {str(hosts): [float(found.rounds)] for hosts, found in grown.items()},
    )


def _row(what: str, scenario: Scenario, found: Outcomes) -> Row:
    whole = found.finished == found.wanted and found.origin_copies <= 1
    ours = (
        f"{found.rounds} rounds, origin {found.origin_copies:.2f} copies, seeds gave {found.seed_copies:.2f}"
    )
    bound = lower_bound_rounds(scenario)
    ratio = f"{found.rounds / bound:.2f}"
    return Row(what, ours, f"bound {bound:.0f}", ratio, "all finish, origin at most 1 copy", whole)


def _growth(grown: dict[int, Outcomes]) -> Row:
    """Ten times the hosts may add as much as before and a little: it grows like the logarithm."""
    rounds = [found.rounds for found in grown.values()]
    steps = [later - earlier for earlier, later in pairwise(rounds)]
    most = math.log2(10) * 6
    return Row(
        "rounds that ten times the hosts add",
        ", ".join(map(str, steps)),
        "",
        "",
        f"at most {most:.0f} each",
        max(steps) <= most,
    )


def plot(rounds: dict[int, int]) -> str:
    """Bars of text, one for each size of swarm."""
    longest = max(rounds.values())
    return "\n".join(
        f"{hosts:>9,} {'█' * max(1, taken * _PLOT_WIDTH // longest)} {taken}"
        for hosts, taken in rounds.items()
    )
