"""Filters of List: containerd's own table (pkg/filters/filter_test.go), and what hypothesis makes up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import UsageError
from cafs.snapshotter.filters import parse_filters
from cafs.snapshotter.snapshot import Info, Kind


def _info(name: str, parent: str = "", **labels: str) -> Info:
    return Info(name, parent, Kind.COMMITTED, 0, 0, labels)


# As containerd's corpus; its field "other" is our parent.
CORPUS = [
    _info("foo", foo="true"),
    _info("bar"),
    _info("foo", **{"foo": "present", "more complex label": "present"}),
    _info("bar", bar="true"),
    _info("fooer", **{'more complex label with \\ and "': "present"}),
    _info("fooer", **{'more complex label with \\ and ".post': "present"}),
    _info("baz", "too complex, yo"),
    _info("bazo", "abc"),
    _info("compound", foo="omg_asdf.asdf-qwer"),
]
EVERY = list(range(len(CORPUS)))
MATCHES = {
    "": EVERY,
    "name": EVERY,
    "labels.foo": [0, 2, 8],
    "labels.foo,name": [0, 2, 8],
    "labels.foo==true": [0],
    "labels.foo==omg_asdf.asdf-qwer": [8],
    "name==bar": [1, 3],
    "name!=bar": [0, 2, 4, 5, 6, 7, 8],
    "name==bar,labels.bar": [3],
    'parent=="too complex, yo"': [6],
    "parent~=[abc]+,name!=foo": [6, 7],
    "parent~=/[abc]+/,name!=foo": [6, 7],
    "parent~=/[abc]{1,2}/,name!=foo": [6, 7],
    'parent~=/[abc]{0,1}"\\//,name!=foo': [],
    "name==bar,labels.bar==true": [3],
    "name==bar,labels.bar==wrong": [],
    'name==foo,labels."more complex label"': [2],
    r'labels."more complex label with \\ and \""==present': [4],
    r'labels."more complex label with \\ and \"".post==present': [5],
    "kind==committed": EVERY,
    "kind==Committed": [],
    "nothing": [],
    "nothing!=x": EVERY,
    "labels.foo!=true": [1, 2, 3, 4, 5, 6, 7, 8],
    "labels": [],
    'name=="\\x66\\157\\u006f"': [0, 2],
    "name  ==  bar": [1, 3],
    "name~=^b": [1, 3, 6, 7],
    "name~=|^b|": [1, 3, 6, 7],
    "name~=(": [],
    "name~=/(?i)^BAR$/": [1, 3],
}
REFUSED = {
    "labels.|foo|==omg_asdf.asdf-qwer": "filters: parse error: [labels. >|||< foo|==omg_asdf.asdf-qwer]: "
    "invalid quote encountered",
    r'labels.?"more complex label with \\ and \"".post==present': r"filters: parse error: [labels. >|?|< "
    r'"more complex label with \\ and \"".post==present]: expected field or quoted',
    "name==foo,": "filters: parse error: [name==foo,]: expected field or quoted",
    "labels.": "filters: parse error: [labels.]: expected field or quoted",
    "image~=,id?=?fbaq": "filters: parse error: [image~= >|,|< id?=?fbaq]: expected value or quoted",
    "labels.ns/key==value": "filters: parse error: [labels.ns >|/|< key==value]: "
    "quoted literal not terminated",
    "labels.key==/value": "filters: parse error: [labels.key== >|/|< value]: quoted literal not terminated",
    "name=bar": 'filters: parse error: [name >|=|< bar]: unsupported operator "="',
    "name==foo ,name": "filters: parse error: [name==foo >| |< ,name]: unexpected input:  ",
    'name=="\\q"': 'filters: parse error: [name== >|"|< \\q"]: illegal escape sequence',
    'name=="\\U00110000"': 'filters: parse error: [name== >|"|< \\U00110000"]: '
    "unquoting failed: quote syntax error",
}


@pytest.mark.parametrize("text", MATCHES)
def test_matches_what_containerd_matches(text: str) -> None:
    matches = parse_filters([text])
    assert [number for number, info in enumerate(CORPUS) if matches(info)] == MATCHES[text]


@pytest.mark.parametrize("text", REFUSED)
def test_refuses_what_containerd_refuses_with_its_words(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filters([text])
    assert str(caught.value) == REFUSED[text]


def test_of_several_filters_one_must_match() -> None:
    matches = parse_filters(["name==bar,labels.bar", "name==compound"])
    assert [number for number, info in enumerate(CORPUS) if matches(info)] == [3, 8]
    assert all(map(parse_filters([]), CORPUS))


def test_finds_what_containerd_looks_for_after_a_lazy_prepare() -> None:
    target = "sha256:" + "0f" * 32
    info = _info("n", "k8s.io/7/sha256:ab", **{"containerd.io/snapshot.ref": target})
    text = f'labels."containerd.io/snapshot.ref"=={target},parent=="k8s.io/7/sha256:ab"'
    assert parse_filters([text])(info)
    assert not parse_filters([text])(_info("n", "other", **{"containerd.io/snapshot.ref": target}))


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        matches = parse_filters([text])
    except UsageError:
        return
    for info in CORPUS:
        matches(info)


@given(st.text(alphabet='labelsnmr.,=!~"/|\\x u07 \n', max_size=30))
def test_anything_like_a_filter_is_one_or_refused(text: str) -> None:
    test_any_text_is_a_filter_or_refused.hypothesis.inner_test(text)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\ufffd"), min_size=1))
def test_a_quoted_value_means_itself(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_filters([f'name=="{quoted}"'])(_info(name))
