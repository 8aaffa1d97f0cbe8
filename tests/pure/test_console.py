"""What the console makes of REST's answers."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from cafs.manager.console.audit import change_text
from cafs.manager.console.gate import is_own
from cafs.manager.console.hosts import host_row, query_of
from cafs.manager.console.images import image_row, other_row, reads_chart, say_shared
from cafs.manager.console.overview import cluster_rows, kinds_chart, versions_chart
from cafs.manager.console.session import to_sign_in
from cafs.manager.console.statistics_charts import failures_chart, ratio_chart, store_chart, traffic_chart
from cafs.manager.console.statistics_of import Whose, tile_texts
from cafs.manager.console.statistics_top import top_row


def count(hosts: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "cluster_id": 1,
        "kind": "peer",
        "active": True,
        "cafs_version": "1",
        "running": 2,
        "refuses": False,
    }
    return {**usual, "hosts": hosts, **changes}


COUNTS = [
    count(5),
    count(3, running=1),
    count(2, running=None, refuses=True, kind="seed"),
    count(7, active=False, running=1),
    count(1, cluster_id=None, cafs_version=""),
]


def test_a_line_for_each_cluster_and_for_who_has_none() -> None:
    cluster = {"id": 1, "name": "c", "kind": "scheduler", "configuration": 2}
    mine, nobodys = cluster_rows([cluster], COUNTS)
    assert (mine["active"], mine["inactive"], mine["behind"], mine["refusing"]) == (10, 7, 5, 2)
    assert (nobodys["name"], nobodys["active"], nobodys["behind"], nobodys["href"]) == ("(none)", 1, 0, "")
    assert len(cluster_rows([cluster], COUNTS[:-1])) == 1


def test_charts_hold_every_host_once() -> None:
    series = {one["name"]: one["data"] for one in kinds_chart(COUNTS)["series"]}
    assert series == {"active": [0, 0, 9, 0], "refusing": [0, 2, 0, 0], "inactive": [0, 0, 7, 0]}
    assert versions_chart(COUNTS)["series"][0]["data"] == [
        {"name": "1", "value": 10},
        {"name": "(not said)", "value": 1},
    ]


@pytest.mark.parametrize(
    ("running", "refused", "said"),
    [
        (2, "", "2"),
        (1, "", "1 of 2"),
        (1, "cannot", "1, refuses a newer one"),
        (None, "", "not said of 2"),
    ],
)
def test_a_host_says_what_it_runs(running: int | None, refused: str, said: str) -> None:
    host = {
        "id": "a" * 32, "kind": "peer", "hostname": "", "address": "10.0.0.1:1", "cluster_id": 1,
        "active": True, "since": "2026-01-02T03:04:05Z", "cafs_version": "1",
        "running": running, "refused": refused,
    }  # fmt: skip
    row = host_row(host, {1: {"name": "c", "configuration": 2}})
    assert (row["running"], row["hostname"], row["since"]) == (said, "aaaaaaaa", "2026-01-02 03:04:05 UTC")


def test_each_read_is_a_point_in_its_layer() -> None:
    profile = {"layers": [{}, {}], "order": [[1, "a"], [0, "b"], [1, "c"]]}
    chart = reads_chart(profile)
    assert chart["series"][0]["data"] == [[0, 1], [1, 0], [2, 1]]
    assert chart["yAxis"]["data"] == ["layer 0", "layer 1"]


def test_what_an_image_shares_is_said_in_words() -> None:
    other = {"image": "sha256:" + "b" * 64, "name": "", "layers": 2, "chunks": 30, "share": 0.3,
             "frame_bytes": 3 << 20, "read": 90}  # fmt: skip
    sharing = {"read": 100, "shared": 40, "share": 0.4, "frame_bytes": 4 << 20, "compared": 7, "sharing": 1,
               "items": [other]}  # fmt: skip
    said = say_shared(sharing)
    assert said.startswith("40 of the 100 chunks that its starts read (40%, about 4.0 MiB) are read by")
    assert said.endswith("1 of 7 images have something in common with it.")
    assert say_shared({**sharing, "sharing": 5}).endswith("The 1 with the most in common:")
    assert say_shared({**sharing, "compared": 0}) == "Nothing is known of any other image yet."
    row = other_row(other)
    assert (row["name"], row["layers"], row["chunks"], row["share"], row["size"]) == (
        "(no name)", 2, 30, 30.0, 3.0,
    )  # fmt: skip
    assert row["href"] == "/console/images/sha256:" + "b" * 64


def test_an_image_has_its_part_in_shared_layers() -> None:
    profile = {"image": "sha256:1", "name": "n", "starts": 1, "chunks": 8, "frame_bytes": 1,
               "learned_at": "2026-01-02T03:04:05Z", "layer_count": 3, "shared_layers": 2,
               "shared_layer_chunks": 6}  # fmt: skip
    row = image_row(profile)
    assert (row["layers"], row["shared_layers"], row["shared"]) == (3, 2, 75)
    assert image_row({**profile, "chunks": 0, "shared_layer_chunks": 0})["shared"] == 0


def test_amounts_of_steps_are_drawn_as_rates() -> None:
    names = ("origin_bytes", "seed_bytes", "peer_bytes", "local_bytes")
    series = {"step_s": 10, "begins": ["a", "b"], "values": {name: [20e6, None] for name in names}}
    lines = traffic_chart(series)["series"]
    assert [line["data"] for line in lines] == [[["a", 2.0], ["b", None]]] * 4
    assert ratio_chart({"begins": ["a"], "values": {"hit_ratio": [0.5]}})["series"][0]["data"] == [
        ["a", 50.0]
    ]


def test_failures_are_counted_by_step_and_stores_have_their_quotas() -> None:
    failed = ("downloads_failed", "pieces_failed", "pieces_wrong", "chunks_not_brought", "requests_failed")
    values = {name: [2.0] for name in failed}
    chart = failures_chart({"step_s": 3600, "begins": ["a"], "values": values})
    assert (chart["yAxis"]["name"], chart["series"][0]["data"]) == ("in 1 h", [["a", 2]])
    stores = {"store_bytes": [1 << 30], "store_quota_bytes": [2 << 30], "task_bytes": [0],
              "task_quota_bytes": [0]}  # fmt: skip
    lines = store_chart({"step_s": 60, "begins": ["a"], "values": stores})["series"]
    assert [(line["name"], line["data"][0][1]) for line in lines] == [
        ("chunks", 1), ("quota of chunks", 2), ("tasks", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "longest", "has_levels"),
    [({}, 8760, True), ({"cluster_id": "1"}, 8760, True), ({"host_id": "a"}, 168, True),
     ({"task_id": "a", "cluster_id": "1"}, 168, False), ({"application": "a"}, 2160, False)],
)  # fmt: skip
def test_as_much_can_be_chosen_as_is_kept(query: dict[str, str], longest: int, has_levels: bool) -> None:
    whose = Whose(query)
    assert (max(whose.hours), whose.has_levels) == (longest, has_levels)
    assert [whose.nearest(asked) for asked in ("", "x", "24", "99", "9" * 30)] == [1, 1, 24, 24, 1]
    assert whose.nearest("999999") == longest


def test_times_come_to_a_few_words() -> None:
    amounts = (
        "seed_bytes", "peer_bytes", "upload_bytes", "downloads_failed", "pieces_succeeded", "pieces_failed",
        "pieces_wrong", "chunks_brought", "chunks_not_brought", "requests", "requests_failed",
    )  # fmt: skip
    values = {**dict.fromkeys(amounts, 0), "hit_ratio": None, "origin_bytes": 1_500_000,
              "downloads_succeeded": 1234, "first_byte_p50_ms": 9.7, "first_byte_p99_ms": None}  # fmt: skip
    texts = tile_texts(values)
    assert (texts["hit_ratio"], texts["origin_bytes"], texts["swarm_bytes"]) == ("?", "1.5 MB", "0 B")
    assert (texts["downloads"], texts["first_byte"]) == ("1,234 / 0", "10 ms / ?")


def test_those_with_the_most_lead_to_their_own_statistics() -> None:
    values = {"origin_bytes": 2e9, "hit_ratio": 0.25, "first_byte_p90_ms": None, "downloads_failed": 3}
    host = top_row("host", {"name": "a" * 32, "values": values}, {"a" * 32: "n1"}, {"cluster_id": "1"}, 24)
    assert (host["name"], host["href"]) == ("n1", f"/console/hosts/{'a' * 32}?hours=24")
    assert (host["origin_bytes"], host["hit_ratio"], host["first_byte_p90_ms"]) == ("2.0 GB", "25.0%", "?")
    other = top_row("application", {"name": "a&b'", "values": {}}, {}, {"cluster_id": "1"}, 1)
    assert other["href"] == "/console/statistics?application=a%26b%27&cluster_id=1&hours=1"
    task = top_row("task", {"name": "b" * 64, "values": {}}, {}, {}, 1)
    assert (task["name"], task["href"]) == ("b" * 16, f"/console/statistics?task_id={'b' * 64}&hours=1")


def test_what_is_not_chosen_is_not_asked_for() -> None:
    nothing = dict.fromkeys(("text", "kind", "active", "cluster_id", "cafs_version", "at"), "")
    assert set(query_of(nothing).values()) == {None}
    assert query_of({**nothing, "at": "behind"})["current"] == "false"
    assert query_of({**nothing, "at": "refuses"})["refuses"] == "true"


def test_only_what_changed_is_told() -> None:
    assert change_text({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == "b: 2 → 3"
    assert change_text(None, {"role": "admin"}) == 'role: not said → "admin"'
    assert not change_text({}, None)


@pytest.mark.parametrize(
    ("headers", "scheme", "own"),
    [
        ({"host": "m:1", "origin": "http://m:1"}, "http", True),
        ({"host": "m:1", "origin": "https://m:1"}, "http", True),  # a proxy before us speaks TLS
        ({"host": "m:1", "origin": "http://m:1"}, "https", False),
        ({"host": "m:1", "origin": "http://m:2"}, "ws", False),
        ({"host": "m:1", "origin": "null"}, "http", False),
        ({"host": "m:1"}, "http", True),
        ({"host": "m:1", "sec-fetch-site": "same-site"}, "http", False),
        ({"host": "m:1", "sec-fetch-site": "same-origin"}, "http", True),
    ],
)
def test_whose_page_sent_it(headers: dict[str, str], scheme: str, own: bool) -> None:
    assert is_own(Headers(headers), scheme) is own


@pytest.mark.parametrize("where", ["https://evil", "//evil", "/console/\n", "/elsewhere", "/console/?a=<b>"])
def test_it_leads_to_our_pages_only(where: str) -> None:
    assert to_sign_in("", where) == "/console/sign-in"
    assert to_sign_in("out", "/console/hosts?kind=peer").endswith(
        "?said=out&next=%2Fconsole%2Fhosts%3Fkind%3Dpeer"
    )
