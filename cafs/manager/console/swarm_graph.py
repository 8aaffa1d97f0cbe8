"""A swarm as a graph for ECharts: places that do not move while numbers do. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

_SOURCE = "source"
_COLOURS = {"source": "#8e24aa", "seed": "#1565c0", "complete": "#2e7d32", "downloading": "#ef6c00",
            "part": "#9e9e9e"}  # fmt: skip
_LABELLED = 40
"""With more hosts names would lie on one another; touching one tells its."""
_FAST = 100e6
"""Bytes per second of the thickest line."""


def graph_of(swarm: dict[str, Any]) -> dict[str, Any]:
    """Options of the chart.

    Args:
        swarm: As REST tells it.
    """
    hosts, feeds = swarm["hosts"], swarm["feeds"]
    depths = depths_of([host["id"] for host in hosts], feeds)
    columns: dict[int, list[str]] = defaultdict(list)
    for host in hosts:
        columns[depths[host["id"]]].append(host["id"])
    places = {_SOURCE: (0.0, 0.5)}
    for depth, column in columns.items():
        for number, name in enumerate(sorted(column)):
            places[name] = (float(depth), (number + 0.5) / len(column))
    labelled, names = len(hosts) <= _LABELLED, names_of(hosts)
    nodes = [_node(_SOURCE, "the source", "source", places[_SOURCE], labelled=True)]
    for host in hosts:
        place = places[host["id"]]
        nodes.append(_node(host["id"], names[host["id"]], _category(host), place, labelled=labelled))
    return {
        "animation": False,
        "tooltip": {},
        "legend": {"bottom": 0, "data": list(_COLOURS), "textStyle": {"color": "#888"}},
        "series": [
            {
                "type": "graph",
                "layout": "none",
                "roam": True,
                "preserveAspect": "contain",
                "left": 60,
                "right": 60,
                "top": 20,
                "bottom": 50,
                "edgeSymbol": ["none", "arrow"],
                "edgeSymbolSize": 7,
                "categories": [
                    {"name": name, "itemStyle": {"color": colour}} for name, colour in _COLOURS.items()
                ],
                "data": nodes,
                "links": [_link(feed) for feed in feeds],
            }
        ],
    }


def names_of(hosts: list[dict[str, Any]]) -> dict[str, str]:
    """By id: the host's name, with some of its id where others have that name too."""
    known = Counter(host["hostname"] for host in hosts)
    names = {}
    for host in hosts:
        short = host["id"][:6]
        name = host["hostname"]
        names[host["id"]] = f"{name} {short}".strip() if not name or known[name] > 1 else name
    return names


def depths_of(hosts: list[str], feeds: list[dict[str, Any]]) -> dict[str, int]:
    """How far from the source each host is, by whom it got most from; who got nothing: behind all others."""
    main: dict[str, tuple[int, str]] = {}
    for feed in feeds:
        given = (feed["pieces"], feed["parent"] or _SOURCE)
        main[feed["child"]] = max(main.get(feed["child"], (0, "")), given)
    depths: dict[str, int] = {}
    for host in hosts:
        way, at = [], host
        while at in main and at not in depths and at not in way:
            way.append(at)
            at = main[at][1]
        depth = depths.get(at, 0 if at == _SOURCE or at in way else 1)
        if at not in main and at != _SOURCE:
            depths.setdefault(at, 1)  # it had its pieces before anybody looked
        for step, passed in enumerate(reversed(way), 1):
            depths[passed] = depth + step
    last = max((depths[host] for host in hosts if host in main), default=0)
    gives = {feed["parent"] for feed in feeds}
    return {host: depths[host] if host in main or host in gives else last + 1 for host in hosts}


def _category(host: dict[str, Any]) -> str:
    if host["kind"] == "seed":
        return "seed"
    return "complete" if host["complete"] else "downloading" if host["downloading"] else "part"


def _node(
    name: str, label: str, category: str, place: tuple[float, float], *, labelled: bool
) -> dict[str, Any]:
    return {
        "id": name,
        "name": label,
        "category": category,
        "x": place[0] * 300,
        "y": place[1] * 600,
        "symbolSize": 22 if category in {"source", "seed"} else 14,
        "label": {"show": labelled, "position": "bottom", "color": "#888"},
    }


def _link(feed: dict[str, Any]) -> dict[str, Any]:
    share = min(1.0, feed["bytes_per_s"] / _FAST)
    return {
        "source": feed["parent"] or _SOURCE,
        "target": feed["child"],
        "value": f"{feed['pieces']} pieces, {rate_text(feed['bytes_per_s'])}",
        "lineStyle": {
            "width": round(1 + 5 * share, 2),
            "opacity": 0.9 if feed["bytes_per_s"] >= 1 else 0.3,
            "curveness": 0.1,
        },
    }


def rate_text(bytes_per_s: float) -> str:
    """For people."""
    return f"{bytes_per_s / 1e6:,.1f} MB/s" if bytes_per_s >= 1e5 else "quiet"
