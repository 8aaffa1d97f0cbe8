"""Statistics and the page of the benches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.measure import interleave, median, spread
from bench.report import (
    Result,
    Row,
    markdown,
    may_write_page,
    ratio_row,
    replace_region,
    write_json,
    write_page,
)

RESULT = Result(
    "walk",
    "A walk",
    "What was done.",
    (ratio_row("time", [1.0, 2.0, 3.0], ("other", [4.0, 4.0, 4.0]), 1.5),),
    {"cafs": [1.0, 2.0, 3.0], "other": [4.0, 4.0, 4.0]},
)


def test_contenders_take_turns() -> None:
    order: list[str] = []
    found = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert [len(samples) for samples in found.values()] == [3, 3]


@pytest.mark.parametrize(("samples", "middle", "width"), [([3.0, 1.0, 2.0], 2.0, 1.0), ([5.0], 5.0, 0.0)])
def test_median_and_spread(samples: list[float], middle: float, width: float) -> None:
    assert (median(samples), spread(samples)) == (middle, width)


@pytest.mark.parametrize(
    ("ours", "at_most", "met"), [(1.0, 1.0, False), (1.04, 1.05, True), (1.06, 1.05, False)]
)
def test_a_row_says_whether_its_target_is_met(ours: float, at_most: float, met: bool) -> None:
    assert ratio_row("x", [ours], ("rival", [1.0]), at_most).met is met


def test_result_is_met_only_when_every_row_is() -> None:
    assert RESULT.met
    missed = Row("size", "2", "1", "2", "at most 1", met=False)
    assert not Result("x", "X", "", (*RESULT.rows, missed)).met


def test_region_is_replaced_and_prose_kept() -> None:
    page = "# Page\n\nprose\n\n<!-- bench:a -->\nold\n<!-- /bench:a -->\n\nmore prose\n"
    assert replace_region(page, "a", r"new \1") == page.replace("old", r"new \1")
    assert replace_region(page, "b", "x").endswith("more prose\n\n<!-- bench:b -->\nx\n<!-- /bench:b -->\n")


def test_markdown_names_the_command_and_the_verdict() -> None:
    text = markdown(RESULT, "a machine")
    assert "| time | 2.00 s ±50% | other 4.00 s ±0% | 0.50 | at most 1.50 | yes |" in text
    assert "Medians of 3 runs" in text
    assert "make bench ARGS=walk" in text


def test_a_few_rounds_do_not_replace_what_many_found() -> None:
    assert [rounds for rounds in range(8) if may_write_page(rounds)] == [5, 6, 7]


def test_page_and_json_keep_other_cases(tmp_path: Path) -> None:
    other = Result("other", "Other", "", ())
    for results in ([other], [RESULT], [RESULT]):
        write_page(tmp_path / "page.md", results, "m")
        write_json(tmp_path / "deep" / "results.json", results, "m")
    page = (tmp_path / "page.md").read_text()
    assert page.count("<!-- bench:walk -->") == page.count("<!-- bench:other -->") == 1
    document = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert set(document) == {"other", "walk"}
    assert document["walk"]["samples"]["cafs"] == [1.0, 2.0, 3.0]
