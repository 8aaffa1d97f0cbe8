"""Rules, directions, ranges, conditions, fields, and the way that a request takes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.proxying.address import parse_absolute
from cafs.core.proxying.byte_range import ByteRange, content_range, parse_ranges
from cafs.core.proxying.conditional import Verdict, judge, range_holds
from cafs.core.proxying.content import digest_in, looks_like_content
from cafs.core.proxying.directed import parse_directions
from cafs.core.proxying.fields import end_to_end, for_client, for_origin, for_wish, went_through
from cafs.core.proxying.head import RequestHead, parse_head
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.core.proxying.routing import Plan, Way, plan_request
from cafs.core.proxying.rules import Action, first_match, parse_rules
from cafs.errors import UsageError

DIGEST = "sha256:" + "ab" * 32
BLOB = f"https://registry.example/v2/team/app/blobs/{DIGEST}"


def request(url: str, *lines: str, method: str = "GET") -> RequestHead:
    return parse_head("\r\n".join([f"{method} {url} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1"))


def plan(url: str, *lines: str, rules: tuple[str, ...] = (), method: str = "GET") -> Plan:
    head = request(url, *lines, method=method)
    return plan_request(head, parse_absolute(url), parse_directions(head), parse_rules(rules))


def test_the_first_rule_that_matches_decides() -> None:
    rules = parse_rules([r"blocked \.example/secret", r"direct ^https://a\.", "p2p .", "direct ."])
    for url, action in (
        ("https://a.example/secret", Action.BLOCKED),
        ("https://a.example/x", Action.DIRECT),
        ("http://b.example/x", Action.P2P),
    ):
        rule = first_match(rules, url)
        assert rule is not None
        assert rule.action is action
    assert first_match((), "http://b/") is None


@pytest.mark.parametrize("text", ["", "p2p", "p2p  ", "swarm .", "p2p (", "P2P .", "p2p " + "x" * 2000])
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="rule 2"):
        parse_rules(["p2p .", text])


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_text_is_a_rule_or_refused(texts: list[str]) -> None:
    with suppress(UsageError):
        assert len(parse_rules(texts)) == len(texts)


@pytest.mark.parametrize(
    ("path", "digest"),
    [
        (f"/v2/team/app/blobs/{DIGEST}", DIGEST),
        ("/v2/team/app/blobs/sha256%3A" + "ab" * 32, DIGEST),
        (f"/ghcr1/blobs/{DIGEST}", DIGEST),
        (f"/docker/registry/v2/blobs/sha256/ab/{'ab' * 32}/data", DIGEST),
        (f"/docker/registry/v2/blobs/sha256/cd/{'ab' * 32}/data", None),
        (f"/v2/team/app/manifests/{DIGEST}", None),
        (f"/v2/team/app/blobs/{DIGEST}/x", None),
        ("/v2/team/app/blobs/sha256:" + "AB" * 32, None),
        ("/v2/team/app/blobs/uploads/1", None),
    ],
)
def test_blobs_are_recognised(path: str, digest: str | None) -> None:
    assert digest_in(path) == digest


def test_ways_without_rules() -> None:
    assert plan(BLOB).way is Way.DISTRIBUTE
    assert plan(BLOB).digest == DIGEST
    assert plan(BLOB, method="HEAD").way is Way.FORWARD
    assert plan(BLOB, "Content-Length: 3").way is Way.FORWARD
    assert plan("https://r/v2/team/app/manifests/latest").way is Way.FORWARD
    assert plan("https://files/a.whl").way is Way.DISTRIBUTE
    assert plan("https://files/a.whl?token=x").way is Way.FORWARD
    assert plan("https://files/a.whl", "Authorization: Basic x").way is Way.FORWARD
    assert plan("https://hub/org/m/resolve/main/config.json").way is Way.DISTRIBUTE
    assert plan("https://api/users").way is Way.FORWARD


def test_ways_with_rules_and_directions() -> None:
    assert plan("https://api/users", rules=("p2p ^https://api/",)).way is Way.DISTRIBUTE
    assert plan(BLOB, rules=("direct .",)).way is Way.FORWARD
    assert plan(BLOB, "X-Cafs-Use: p2p", rules=("direct .",)).way is Way.DISTRIBUTE
    assert plan(BLOB, "X-Cafs-Use: direct").way is Way.FORWARD
    assert plan("https://api/x", "X-Cafs-Tag: nightly").way is Way.DISTRIBUTE
    assert plan("https://api/x", f"X-Cafs-Digest: {DIGEST}").digest == DIGEST
    with pytest.raises(RequestRefusedError) as refused:
        plan(BLOB, "X-Cafs-Use: p2p", rules=("blocked registry",))
    assert refused.value.status == 403


def test_plain_http_to_us_and_tls_to_the_origin() -> None:
    assert plan("http://files/a.whl", rules=("https .",)).address.url == "https://files/a.whl"
    assert plan("http://files:8080/x", rules=("https .",)).address.url == "https://files:8080/x"
    assert plan("http://files/a.whl", rules=("https .",)).way is Way.DISTRIBUTE
    assert plan("http://files/list", rules=("https .",)).way is Way.FORWARD


def test_ranges_decide_the_way() -> None:
    assert plan(BLOB, "Range: bytes=5-9").wanted == ByteRange(5, 9)
    assert plan(BLOB, "Range: bytes=5-").wanted == ByteRange(5, None)
    assert plan(BLOB, "Range: bytes=-5").way is Way.FORWARD
    assert plan(BLOB, "Range: bytes=0-1,5-6").way is Way.FORWARD
    assert plan(BLOB, "Range: lines=1-2").wanted is None


def test_private_content_is_kept_apart() -> None:
    assert plan(BLOB).scope == ""
    private = plan(BLOB, "Authorization: Bearer x").scope
    assert private == " private https://registry.example:443/team/app"
    assert plan(BLOB, "Authorization: Bearer y").scope == private
    assert plan(BLOB.replace("team/app", "other"), "Authorization: Bearer x").scope != private
    assert plan(BLOB + "?X-Amz-Signature=1", rules=("p2p .",)).scope
    # No field can say what a scope says: its value never begins with a space.
    mine, theirs = (
        plan(f"https://s3.example/{bucket}/f", "Authorization: x", f"X-Cafs-Digest: sha256:{'0' * 64}")
        for bucket in ("mine", "theirs")
    )
    assert mine.digest == theirs.digest is not None
    assert mine.scope != theirs.scope
    tag = parse_directions(request(BLOB, f"X-Cafs-Tag: {private}")).tag
    assert tag == private.strip() != private


@pytest.mark.parametrize(
    "line",
    ["X-Cafs-Use: maybe", "X-Cafs-Digest: sha256:12", "X-Cafs-Priority: 7", "X-Cafs-Priority: -1",
     "X-Cafs-Unknown: 1", "X-Cafs-Filter: a=b", "X-Cafs-Tag: \xff", "X-Cafs-Priority: \xb2",
     "X-Cafs-Tag: " + "x" * 300, "X-Cafs-Tag: a\r\nX-Cafs-Tag: b"],
)  # fmt: skip
def test_directions_that_cannot_be(line: str) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        parse_directions(request(BLOB, line))
    assert refused.value.status == 400


def test_directions() -> None:
    found = parse_directions(
        request(BLOB, "X-Cafs-Filter: b&a,b", "X-Cafs-Priority: 0", "X-Cafs-Application: ci")
    )
    assert (found.filtered_query, found.priority, found.application, found.p2p) == (("a", "b"), 0, "ci", True)
    assert parse_directions(request(BLOB)).p2p is None


def test_priority_0_is_blocked_whatever_the_rules_say() -> None:
    with pytest.raises(RequestRefusedError) as refused:
        plan(BLOB, "X-Cafs-Priority: 0", rules=("p2p .",))
    assert refused.value.status == 403


@given(st.sampled_from(["use", "digest", "tag", "application", "filter", "priority", "registry", "x"]),
       st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))  # fmt: skip
def test_any_direction_is_read_or_refused(name: str, value: str) -> None:
    with suppress(RequestRefusedError):
        parse_directions(request(BLOB, f"X-Cafs-{name}: {value}"))


@pytest.mark.parametrize(
    ("header", "ranges"),
    [
        ("bytes=0-0", [ByteRange(0, 0)]),
        ("Bytes = 5 - 9 , -3,,7-", [ByteRange(5, 9), ByteRange(None, 3), ByteRange(7, None)]),
        ("bytes=", None),
        ("bytes=9-5", None),
        ("bytes=a-b", None),
        ("bytes=--5", None),
        ("bytes=1", None),
        ("items=0-1", None),
        ("bytes=1-2;3", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges_as_they_are_written(header: str, ranges: list[ByteRange] | None) -> None:
    assert parse_ranges(header) == ranges


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)), st.integers(0, 50))
def test_ranges_are_what_slices_are(first: int, length: int | None, size: int) -> None:
    content = bytes(range(size))
    last = None if length is None else first + length
    wanted = ByteRange(first, last)
    assert parse_ranges(str(wanted)) == [wanted]
    span = wanted.within(size)
    expected = content[first : None if last is None else last + 1]
    assert (content[span[0] : span[1] + 1] if span else b"") == expected
    suffix = ByteRange(None, first).within(size)
    assert (content[suffix[0] : suffix[1] + 1] if suffix else b"") == (content[-first:] if first else b"")


@given(st.text(max_size=40))
def test_any_text_is_a_range_or_none(text: str) -> None:
    for wanted in parse_ranges("bytes=" + text) or []:
        span = wanted.within(10)
        assert span is None or 0 <= span[0] <= span[1] < 10


def test_content_range() -> None:
    assert content_range(0, 4, 10) == "bytes 0-4/10"
    assert content_range(0, 4, None) == "bytes 0-4/*"


OLD, NEW = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        ({}, Verdict.PROCEED),
        ({"if-none-match": '"a"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": 'W/"a"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": '"x", "a"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": "*"}, Verdict.NOT_MODIFIED),
        ({"if-none-match": '"b"'}, Verdict.PROCEED),
        ({"if-none-match": '"b"', "if-modified-since": NEW}, Verdict.PROCEED),
        ({"if-modified-since": OLD}, Verdict.NOT_MODIFIED),
        ({"if-modified-since": NEW}, Verdict.NOT_MODIFIED),
        ({"if-modified-since": "Sat, 05 Nov 1994 08:49:37 GMT"}, Verdict.PROCEED),
        ({"if-modified-since": "yesterday"}, Verdict.PROCEED),
        ({"if-match": '"a"'}, Verdict.PROCEED),
        ({"if-match": 'W/"a"'}, Verdict.FAILED),
        ({"if-match": '"b"'}, Verdict.FAILED),
        ({"if-unmodified-since": "Sat, 05 Nov 1994 08:49:37 GMT"}, Verdict.FAILED),
        ({"if-unmodified-since": OLD}, Verdict.PROCEED),
    ],
)
def test_conditions(conditions: dict[str, str], verdict: Verdict) -> None:
    assert judge(conditions, '"a"', OLD) is verdict


def test_if_range() -> None:
    assert range_holds('"a"', '"a"', "")
    assert not range_holds('W/"a"', 'W/"a"', "")
    assert range_holds(OLD, "", OLD)
    assert not range_holds(OLD, "", NEW)
    assert not range_holds(OLD, "", "")


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_condition_is_weighed(condition: str, etag: str, date: str) -> None:
    for name in ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"):
        assert isinstance(judge({name: condition}, etag, date), Verdict)


def test_fields_of_one_hop_end_here() -> None:
    fields = request(
        BLOB, "Connection: close, X-Mine", "X-Mine: 1", "Keep-Alive: 5", "Proxy-Authorization: Basic x",
        "TE: x", "Upgrade: h2c", "X-Cafs-Tag: t", "Accept: */*", "Authorization: Bearer y", "Via: 1.1 other",
    ).fields  # fmt: skip
    assert for_origin(fields, "registry.example", "us") == [
        ("host", "registry.example"), ("accept", "*/*"), ("authorization", "Bearer y"),
        ("via", "1.1 other, 1.1 us"),
    ]  # fmt: skip
    assert for_wish(fields) == (("accept", "*/*"), ("authorization", "Bearer y"))
    assert went_through([("via", "1.1 us")], "us")
    assert not went_through([("via", "1.1 usual")], "us")


def test_connection_cannot_take_away_what_matters() -> None:
    fields = request(BLOB, "Connection: host, authorization, cookie", "Authorization: x", "Cookie: y").fields
    assert {name for name, _ in end_to_end(fields)} == {"host", "authorization", "cookie"}


def test_fields_of_an_answer() -> None:
    fields = [("Connection", "x-hop"), ("X-Hop", "1"), ("Transfer-Encoding", "chunked"),
              ("WWW-Authenticate", "Bearer"), ("Content-Length", "5")]  # fmt: skip
    assert for_client(fields, "us") == [("www-authenticate", "Bearer"), ("via", "1.1 us")]

    assert looks_like_content("/a/b.TAR.GZ", "")
    assert not looks_like_content("/a/b.html", "")
