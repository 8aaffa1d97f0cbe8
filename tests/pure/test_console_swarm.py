"""How the console draws a swarm."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cafs.manager.console.swarm import candidate_rows, feed_rows, summary
from cafs.manager.console.swarm_graph import depths_of, graph_of

HOSTS = st.integers(0, 6).map(str)
FEEDS = st.lists(
    st.tuples(st.none() | HOSTS, HOSTS, st.integers(1, 9)), max_size=20, unique_by=lambda feed: feed[:2]
)


def feed(parent: str | None, child: str, pieces: int = 1, bytes_per_s: float = 0.0) -> dict[str, Any]:
    return {"parent": parent, "child": child, "pieces": pieces, "bytes_per_s": bytes_per_s}


def host(name: str, **changes: Any) -> dict[str, Any]:
    usual = {"hostname": f"h{name}", "kind": "peer", "pieces": 1, "complete": False, "downloading": True}
    return {"id": name, "at_source": False, **usual, **changes}


def test_a_chain_goes_from_left_to_right_and_who_got_nothing_is_last() -> None:
    feeds = [feed(None, "a", 9), feed("a", "b", 5), feed(None, "b", 2), feed("b", "c", 3)]
    assert depths_of(["a", "b", "c", "d"], feeds) == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert depths_of(["a", "b"], [feed("a", "b")]) == {"a": 1, "b": 2}  # a had it before anybody looked


@given(FEEDS)
def test_any_feeding_has_a_place_for_everybody(told: list[tuple[str | None, str, int]]) -> None:
    names = [str(number) for number in range(7)]
    feeds = [feed(parent, child, pieces) for parent, child, pieces in told]
    depths = depths_of(names, feeds)
    assert set(depths) == set(names)
    assert all(1 <= depth <= len(names) + 1 for depth in depths.values())
    series = graph_of({"hosts": [host(name) for name in names], "feeds": feeds})["series"][0]
    ids = {node["id"] for node in series["data"]}
    assert len(ids) == len(names) + 1
    assert all({link["source"], link["target"]} <= ids for link in series["links"])
    places = {(node["x"], node["y"]) for node in series["data"]}
    assert len(places) == len(ids)


def test_lines_say_how_much_and_how_fast() -> None:
    swarm = {
        "hosts": [host("a", kind="seed"), host("b", hostname="")],
        "feeds": [feed("a", "b", 3, 2.5e6), feed(None, "a", 4)],
    }
    assert [(row["parent"], row["child"], row["pieces"], row["rate"]) for row in feed_rows(swarm)] == [
        ("ha", "b", 3, "2.5 MB/s"),
        ("the source", "ha", 4, "quiet"),
    ]
    fast, quiet = graph_of(swarm)["series"][0]["links"]
    assert fast["lineStyle"]["width"] > quiet["lineStyle"]["width"]


def test_who_was_chosen_comes_first() -> None:
    told = [
        {"host_id": "a" * 32, "hostname": "", "score": 0.9, "parts": {"idc": 0.5, "load": 0.0},
         "filtered": "", "chosen": False},
        {"host_id": "b" * 32, "hostname": "b", "score": 0.2, "parts": {}, "filtered": "", "chosen": True},
        {"host_id": "c" * 32, "hostname": "c", "score": 0.0, "parts": {}, "filtered": "busy",
         "chosen": False},
    ]  # fmt: skip
    rows = candidate_rows(told)
    assert [row["host"] for row in rows] == ["b", "aaaaaa", "c"]
    assert (rows[1]["parts"], rows[2]["filtered"]) == ("idc 0.50", "busy")


def test_what_is_not_known_yet_is_said_so() -> None:
    task = {
        "id": "0" * 64, "url": "u", "digest": "", "application": "", "state": "running",
        "content_bytes": None, "pieces": None, "hosts": 2, "complete": 0,
        "downloading": 2, "source_pieces": 0, "swarm_pieces": 0,
    }  # fmt: skip
    assert summary(task).startswith("running, ? MiB in ? pieces; 2 hosts")
    assert "0.5 copies came from the source" in summary({**task, "pieces": 4, "source_pieces": 2})
