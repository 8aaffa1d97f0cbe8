"""A cluster's live configuration: what can be one, what it means, how two differ."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.live.document import (
    DOCUMENT_BYTES,
    SCHEDULER,
    InvalidDocumentError,
    LiveConfig,
    difference,
    parse_document,
)
from cafs.core.live.fields import MOST_WRONG
from cafs.core.live.wishes import WishRules
from cafs.core.proxying.rules import first_match
from cafs.core.scheduling.limits import Limits
from cafs.core.swarm.peer_limits import PeerLimits

WISH = {"url": "https://origin/file", "application": "", "tag": "", "priority": 3}
SECTIONS = ["peer", "scheduler", "proxy", "block", "applications"]
NAMES = [limit.name for limit in fields(PeerLimits)]


def test_what_is_not_named_stays() -> None:
    config = parse_document({}, "scheduler")
    assert config == LiveConfig()
    assert config.peer_limits(PeerLimits(concurrent_uploads=7)) == PeerLimits(concurrent_uploads=7)
    assert config.scheduler_limits(Limits(source_peers=9)) == Limits(source_peers=9)


def test_what_is_named_holds() -> None:
    told = {"peer": {"upload_bytes_per_s": 5}, "scheduler": {"parents": 100, "shun_s": 60.5}}
    config = parse_document(told, "scheduler")
    own = PeerLimits(concurrent_uploads=7)
    assert config.peer_limits(own) == replace(own, upload_bytes_per_s=5)
    limits = config.scheduler_limits(Limits())
    # it looks at no fewer than it offers
    assert limits == Limits(parents_per_peer=100, sample=100, shun_corrupt_s=60.5)


@pytest.mark.parametrize("learn", [True, False])
def test_learning_can_be_switched_off(learn: bool) -> None:
    assert parse_document({}, "scheduler").learns
    assert parse_document({"profiles": {}}, "scheduler").learns
    assert parse_document({"profiles": {"learn": learn}}, "scheduler").learns is learn


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_of_a_peer_may_be_named(name: str) -> None:
    config = parse_document({"peer": {name: 1 << 30}}, "seed")
    assert getattr(config.peer_limits(PeerLimits()), name) == 1 << 30


@pytest.mark.parametrize("spec", SCHEDULER, ids=lambda spec: spec.name)
def test_every_number_of_a_scheduler_has_its_bounds(spec: Any) -> None:
    most = {"parents": {"sample": 4096}}.get(spec.name, {})
    for value in (spec.least, spec.most):
        number = int(value) if spec.whole else value
        config = parse_document({"scheduler": {spec.name: number, **most}}, "scheduler")
        assert getattr(config.scheduler_limits(Limits()), spec.limit) >= number
    for value in (spec.least - 1, spec.most + 1, True, "7", None, float("nan")):
        with pytest.raises(InvalidDocumentError) as caught:
            parse_document({"scheduler": {spec.name: value}}, "scheduler")
        assert list(caught.value.wrong) == [f"scheduler.{spec.name}"]


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ([], ["document"]),
        ({"pear": {}}, ["pear"]),
        ({"peer": []}, ["peer"]),
        ({"peer": {"uploads": 1, "concurrent_uploads": -1}}, ["peer.uploads", "peer.concurrent_uploads"]),
        ({"peer": {"store_quota_bytes": 1}}, ["peer.store_quota_bytes"]),
        ({"scheduler": {"parents": 20, "sample": 10}}, ["scheduler.sample"]),
        ({"block": [{}]}, ["block[0]"]),
        ({"block": [{"url": "("}, {"url": "x" * 1001}]}, ["block[0].url", "block[1].url"]),
        ({"block": [{"priority": 7}]}, ["block[0].priority"]),
        ({"block": [{"tag": "a\x1b"}]}, ["block[0].tag"]),
        ({"block": [{"tag": "a"}] * 1001}, ["block"]),
        (
            {"proxy": {"rules": ["burn x", "p2p", "p2p (", 7]}},
            ["proxy.rules[0]", "proxy.rules[1]", "proxy.rules[2]", "proxy.rules[3]"],
        ),
        ({"proxy": {"mirrors": []}}, ["proxy.mirrors"]),
        ({"applications": [{"name": "a"}]}, ["applications[0].priority"]),
        ({"applications": [{"name": "a", "priority": 1}] * 2}, ["applications[1].name"]),
        ({"block": [{"url": "x" * 1000} for _ in range(300)]}, ["document"]),
    ],
)
def test_all_that_is_wrong_is_told_by_path(document: Any, paths: list[str]) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        parse_document(document, "scheduler")
    assert list(caught.value.wrong) == paths


@pytest.mark.parametrize("section", ["scheduler", "proxy"])
def test_seeds_have_neither_schedulers_nor_proxies(section: str) -> None:
    with pytest.raises(InvalidDocumentError):
        parse_document({section: {}}, "seed")


def test_rules_of_a_proxy_are_as_in_its_own_configuration() -> None:
    rules = parse_document(
        {"proxy": {"rules": ["blocked ^http://evil/", "p2p big"]}}, "scheduler"
    ).proxy_rules
    assert [str(rule) for rule in rules] == ["blocked ^http://evil/", "p2p big"]
    for url, action in (("http://evil/big", "blocked"), ("http://good/big", "p2p")):
        rule = first_match(rules, url)
        assert rule is not None
        assert rule.action == action
    assert first_match(rules, "http://good/") is None


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ({"application": "batch"}, {"application": "batch"}),
        ({"tag": "old"}, {"tag": "old"}),
        ({"priority": 3}, {}),
        ({"url": r"^https://origin/.*\.iso$"}, {"url": "https://origin/x.iso"}),
        ({"application": "batch", "url": "origin"}, {"application": "batch"}),
    ],
)
def test_a_line_blocks_what_is_as_all_of_it_says(line: dict[str, Any], fits: dict[str, Any]) -> None:
    rules = parse_document({"block": [line]}, "seed").wishes
    assert rules.why_blocked(**{**WISH, **fits}) == ", ".join(
        f"{name} {line[name]}" for name in ("application", "tag", "priority", "url") if name in line
    )
    assert not rules.why_blocked(**{**WISH, "priority": 4, "url": "https://elsewhere/x"})


def test_expressions_that_are_made_to_take_long_do_not() -> None:
    rules = parse_document({"block": [{"url": "(a*)*b$"}]}, "seed").wishes
    assert not rules.why_blocked(**{**WISH, "url": "a" * 100_000})


def test_an_applications_priority_is_for_whom_says_no_other() -> None:
    rules = parse_document({"applications": [{"name": "ml", "priority": 5}]}, "seed").wishes
    assert rules == WishRules(applications={"ml": 5})
    assert [rules.priority_of("ml", said) for said in (0, 3, 6)] == [0, 5, 6]
    assert rules.priority_of("other", 3) == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["peer", "scheduler", "block", "applications", "proxy", "rules", "url", "name", *NAMES, "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_anything_is_a_document_or_is_told_why_not(value: Any) -> None:
    try:
        config = parse_document(value, "scheduler")
    except InvalidDocumentError:
        return
    config.peer_limits(PeerLimits())
    config.scheduler_limits(Limits())
    assert len(json.dumps(value)) <= DOCUMENT_BYTES


@pytest.mark.parametrize(
    ("expression", "rules", "why", "told"),
    [
        (r"x{}\pL{{1000}}", 1000, "proxy.rules[0] is too large a", 17),
        ("{}[^a]{{500}}[^b]{{500}}", 1000, "together with the expressions before it", 1),
        ("{}(", 1000, "proxy.rules[99] is no", MOST_WRONG),
    ],
)
def test_expressions_share_a_bound(expression: str, rules: int, why: str, told: int) -> None:
    """By themselves a thousand of them took a minute of their service's thread, or gigabytes."""
    lines = [f"blocked {expression.format(number)}" for number in range(rules)]
    with pytest.raises(InvalidDocumentError) as found:
        parse_document({"proxy": {"rules": lines}}, "scheduler")
    assert why in str(found.value)
    assert len(found.value.wrong) == told


def test_a_thousand_usual_expressions_have_room() -> None:
    lines = [f"p2p ^https?://registry-{number}\\.example(:[0-9]+)?/v2/.*/blobs/" for number in range(1000)]
    assert len(parse_document({"proxy": {"rules": lines}}, "scheduler").proxy_rules) == 1000


def test_not_all_is_told_that_is_wrong() -> None:
    with pytest.raises(InvalidDocumentError) as found:
        parse_document({f"{number:0200}": 0 for number in range(10_000)}, "scheduler")
    assert len(found.value.wrong) == MOST_WRONG
    assert len(str(found.value)) < 40_000


documents = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), max_size=3), max_size=3
)


@given(documents, documents)
def test_a_difference_is_all_that_changes_and_nothing_else(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    changed = {name: dict(section) for name, section in before.items()}
    for path, change in difference(before, after).items():
        section, _, name = path.partition(".")
        assert changed.get(section, {}).get(name) == change["before"] != change["after"]
        if change["after"] is None:
            del changed[section][name]
        else:
            changed.setdefault(section, {})[name] = change["after"]
    said = {name: section for name, section in changed.items() if section}
    assert said == {name: section for name, section in after.items() if section}
