"""What the console shows of jobs."""

from __future__ import annotations

from typing import Any

import pytest

from cafs.manager.console.job import pause_s, say
from cafs.manager.console.job_rows import bytes_of, job_row, share_of, what_of
from cafs.manager.console.jobs import new_job


def job(**fields: Any) -> dict[str, Any]:
    hosts = {"waiting": 0, "told": 0, "succeeded": 0, "failed": 0, "cancelled": 0, **fields.pop("hosts", {})}
    return {
        "id": 7, "kind": "preheat_file", "cluster_id": 1, "spec": {"url": "https://o/f"}, "state": "running",
        "why": "", "who": "ann", "created_at": "2026-01-02T03:04:05+00:00", "hosts": hosts,
        "done_bytes": 0, "total_bytes": 0, "most_bytes": 0, **fields,
    }  # fmt: skip


def test_a_job_in_a_line() -> None:
    row = job_row(
        job(hosts={"succeeded": 2, "told": 1}, done_bytes=2_500_000, total_bytes=3_000_000), {1: "gpu"}
    )
    assert (row["what"], row["cluster"], row["hosts"]) == ("Preheat https://o/f", "gpu", "2 of 3")
    assert (row["share"], row["href"]) == ("2.5 of 3.0 MB", "/console/jobs/7")
    assert job_row(job(cluster_id=9), {})["cluster"] == "9"
    assert (
        say(job(hosts={"failed": 1}, state="failed", why="late")) == "Job 7 of ann: failed · 1 failed · late"
    )
    assert say(job()) == "Job 7 of ann: running · no host yet"


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("preheat_image", {"image": "r/a:1"}, "Preheat r/a:1"),
        ("convert", {"image": "r/{url}:1"}, "Convert r/{url}:1"),
        ("delete", {"url": None, "task_id": "ab"}, "Delete ab"),
        ("delete", {"url": "https://o/f", "task_id": ""}, "Delete https://o/f"),
        ("sync", {}, "Ask what hosts hold"),
        ("gc", {"idle_s": 0}, "Collect garbage"),
        ("of a newer manager", {}, "of a newer manager"),
    ],
)
def test_jobs_in_words(kind: str, spec: dict[str, Any], words: str) -> None:
    assert what_of(job(kind=kind, spec=spec)) == words


def test_how_far_a_job_is() -> None:
    assert share_of(job()) == 0
    assert share_of(job(state="succeeded")) == 1
    assert share_of(job(hosts={"told": 4}, done_bytes=50, total_bytes=100, most_bytes=100)) == 0.125
    assert (
        share_of(job(hosts={"succeeded": 1, "told": 1}, done_bytes=150, total_bytes=200, most_bytes=100))
        == 0.75
    )
    assert share_of(job(hosts={"succeeded": 1, "failed": 1})) == 1
    assert share_of(job(hosts={"told": 1}, done_bytes=500, most_bytes=100)) == 1
    assert bytes_of({"done_bytes": 5, "total_bytes": 0}) == ""


def test_a_new_job_says_what_rest_wants() -> None:
    made = new_job("preheat_image", "r/a:1", 3, 100)
    assert made == {
        "kind": "preheat_image",
        "cluster_id": 3,
        "spec": {"image": "r/a:1"},
        "scope": {"hosts": "all"},
    }
    half = new_job("preheat_file", "https://o/f", 3, 50)
    assert half["scope"] == {"hosts": "percent", "percent": 50}
    assert new_job("sync", "", 3, None)["scope"] == {"hosts": "percent", "percent": 0}  # REST refuses it
    assert new_job("convert", "r/a:1", 3, 50) == {
        "kind": "convert",
        "cluster_id": 3,
        "spec": {"image": "r/a:1"},
    }


def test_a_page_leaves_the_manager_most_of_its_time() -> None:
    assert [pause_s(took_s) for took_s in (0.0, 0.05, 0.5)] == [1.0, 1.0, 5.0]
