"""The pure half of the registry client: challenges, tokens, ranges, errors, redirects, retries."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import (
    AuthError,
    CafsError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    ProtocolError,
    RemoteError,
)
from cafs.oci.registry.address import address_of, scheme_for
from cafs.oci.registry.answers import (
    ContentRange,
    LastingError,
    check_content_range,
    describe_body,
    error_of,
    origin_of,
    parse_content_range,
    parse_next_link,
    parse_retry_after,
    plan_retry,
    resolve_location,
)
from cafs.oci.registry.challenge import (
    AskToken,
    Challenge,
    Credentials,
    check_realm,
    merge_scopes,
    parse_challenges,
    parse_token,
    plan_answer,
)

DOCKER_HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/debian:pull,push"'
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="Registry Realm"', [("basic", {"realm": "Registry Realm"})]),
        ('BASIC Realm = "a, b=c" , charset="UTF-8"', [("basic", {"realm": "a, b=c", "charset": "UTF-8"})]),
        (
            DOCKER_HUB,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/debian:pull,push",
                    },
                )
            ],
        ),
        ('Negotiate abc==, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (r'Bearer realm="a\"b\\c"', [("bearer", {"realm": 'a"b\\c'})]),
        ('Bearer realm="https://a",error="invalid_token"',
         [("bearer", {"realm": "https://a", "error": "invalid_token"})]),
        ('Bearer realm="never closed', [("bearer", {})]),
        ("=,=", []),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, c.parameters) for c in parse_challenges(header)] == expected


@given(st.text(max_size=200) | st.from_regex(r'([A-Za-z]+ ?([a-z]+="?[a-z:/,\\"]*"?,? ?)*){0,4}'))
def test_any_challenge_is_read(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme


def test_a_long_challenge_is_read_in_linear_time() -> None:
    parse_challenges('Bearer realm="' + "\\" * 200_000)
    parse_challenges("a " * 100_000)
    parse_challenges("a=" * 100_000)
    parse_challenges("Basic " + "a=\t" * 100_000)


NAME = "registry example.org"
ALICE = Credentials("alice", "sesame")


def test_answers_to_challenges() -> None:
    bearer = Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "x"})
    basic = Challenge("basic", {"realm": "r"})
    assert plan_answer([basic, bearer], ALICE, NAME) == AskToken("https://a/t", "s", "x")
    assert plan_answer([bearer], None, NAME) == AskToken("https://a/t", "s", "x")
    assert plan_answer([bearer], Credentials(registry_token="ready"), NAME) == "Bearer ready"
    assert plan_answer([basic], ALICE, NAME) == "Basic YWxpY2U6c2VzYW1l"
    with pytest.raises(AuthError, match="docker login"):
        plan_answer([basic], None, NAME)
    for challenges in ([], [Challenge("negotiate", {})], [Challenge("bearer", {})]):
        with pytest.raises(AuthError, match="no way to authenticate"):
            plan_answer(challenges, ALICE, NAME)


def test_credentials_are_never_printed() -> None:
    assert "sesame" not in repr(ALICE)
    assert "sesame" not in repr(Credentials(identity_token="sesame", registry_token="sesame"))
    assert "sesame" not in repr(parse_token(b'{"token": "sesame"}', "x"))


@pytest.mark.parametrize(
    "realm", ["", "/token", "ftp://a/t", "https://", "https://[", "https://u:p@a/t", "http://a\n/t"]
)
def test_realms_that_are_no_address(realm: str) -> None:
    with pytest.raises(ProtocolError):
        check_realm(realm, plain_http=True, name=NAME)


def test_credentials_go_to_plain_http_only_where_the_registry_is_plain_too() -> None:
    assert check_realm("http://a/t", plain_http=True, name=NAME) == "http://a/t"
    with pytest.raises(ProtocolError, match="nothing was sent"):
        check_realm("http://a/t", plain_http=False, name=NAME)


def test_scopes_are_merged() -> None:
    ours = ("repository:a:pull,push",)
    assert merge_scopes(ours, "repository:a:pull") == ours
    assert merge_scopes(ours, "") == ours
    assert merge_scopes(ours, "registry:catalog:*") == (*ours, "registry:catalog:*")


@pytest.mark.parametrize(
    ("answer", "value", "use_for_s"),
    [
        ({"token": "abc"}, "abc", 48),
        ({"access_token": "abc", "expires_in": 300}, "abc", 240),
        ({"token": "abc", "access_token": "def", "expires_in": "soon"}, "abc", 48),
        ({"token": "abc", "expires_in": 1e300}, "abc", 48),
        ({"token": "abc", "expires_in": 10**9}, "abc", 2880),
        ({"token": "abc", "expires_in": -5}, "abc", 0),
    ],
)
def test_tokens(answer: object, value: str, use_for_s: float) -> None:
    token = parse_token(json.dumps(answer).encode(), "x")
    assert token.value == value
    assert token.use_for_s == pytest.approx(use_for_s)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": ""}',
        b'{"token": 5}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "\xc3\xa4"}',
    ],
)
def test_what_holds_no_token(content: bytes) -> None:
    with pytest.raises((ProtocolError, IntegrityError)):
        parse_token(content, "x")


@given(
    st.binary(max_size=100)
    | st.dictionaries(
        st.sampled_from(["token", "expires_in"]), st.none() | st.integers() | st.floats() | st.text()
    ).map(lambda d: json.dumps(d).encode())
)
def test_any_token_answer_is_read_or_refused(content: bytes) -> None:
    try:
        token = parse_token(content, "x")
    except (ProtocolError, IntegrityError):
        return
    assert token.value
    assert token.use_for_s >= 0


def test_content_ranges() -> None:
    assert parse_content_range("bytes 0-9/100") == ContentRange(0, 9, 100)
    assert parse_content_range("bytes 5-5/*") == ContentRange(5, 5, None)
    for wrong in (
        "",
        "bytes */100",
        "bytes 9-0/100",
        "bytes 0-100/100",
        "0-9/100",
        "bytes 0-9",
        "bytes -1-9/100",
        "bytes 0-9/" + "9" * 30,
        "bytes \u0660-\u0669/100",
    ):
        assert parse_content_range(wrong) is None, wrong
    check_content_range("bytes 10-19/100", 10, 10, 100, "x")
    check_content_range("bytes 10-19/*", 10, 10, 100, "x")
    for wrong in ("bytes 10-18/100", "bytes 11-20/100", "bytes 10-19/99", "nonsense"):
        with pytest.raises(ProtocolError):
            check_content_range(wrong, 10, 10, 100, "x")


@given(st.text(max_size=60))
def test_any_header_is_read(header: str) -> None:
    parse_content_range(header)
    parse_next_link(header)
    wait = parse_retry_after(header, 0.0)
    assert wait is None or wait >= 0


def test_retry_after() -> None:
    assert parse_retry_after("7", 0) == 7
    assert parse_retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40) == 60
    assert parse_retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 500) == 0
    for senseless in (None, "", "-1", "soon", "1.5", "9" * 50):
        assert parse_retry_after(senseless, 0) is None


@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (400, LastingError, False),
        (401, AuthError, False),
        (403, AuthError, False),
        (404, NotFoundError, False),
        (408, DeadlineError, True),
        (416, LastingError, False),
        (429, RemoteError, True),
        (500, RemoteError, True),
        (502, RemoteError, True),
        (503, RemoteError, True),
        (504, DeadlineError, True),
        (200, RemoteError, True),
    ],
)
def test_errors_of_statuses(status: int, kind: type[CafsError], again: bool) -> None:
    error = error_of(status, "Reason", b'{"errors":[{"code":"X","message":"told\\nyou"}]}', "what", 3.0)
    assert type(error) is kind
    assert str(error).startswith("what: ")
    assert str(error).endswith(f"answered {status} Reason (X: told you)")
    assert (plan_retry(error, 1, 5, 0.5) is not None) == again


def test_a_digest_that_a_registry_calls_wrong_is_sent_again() -> None:
    body = b'{"errors":[{"code":"DIGEST_INVALID","message":"digest did not match uploaded content"}]}'
    assert plan_retry(error_of(400, "Bad Request", body, "what", None), 1, 5, 0.5) is not None
    assert plan_retry(error_of(413, "Too Large", body, "what", None), 1, 5, 0.5) is None


def test_retries_obey_the_registry_and_end() -> None:
    error = error_of(503, "", b"", "x", 17.0)
    assert plan_retry(error, 1, 5, 0.0) == 17
    assert plan_retry(error, 6, 5, 0.0) is None
    assert plan_retry(error_of(503, "", b"", "x", 1e9), 1, 5, 0.0) == 60
    waits = [plan_retry(RemoteError("x"), n, 50, 0.5) or 0 for n in range(1, 50)]
    assert waits == sorted(waits)
    assert waits[-1] == 8
    assert plan_retry(IntegrityError("x"), 1, 5, 0.0) is None


@given(st.binary(max_size=300))
def test_any_error_body_becomes_one_short_line(body: bytes) -> None:
    line = describe_body(body)
    assert line.isprintable()
    assert len(line) <= 200


def test_hostile_error_bodies() -> None:
    for body in (b"[" * 8000, b'{"errors": [1]}', b'{"errors": [{"message": {}}]}', b"<html>", b"null"):
        assert describe_body(body) in {"", "1"}
    assert describe_body(json.dumps({"message": "\x1b[31mred\r\n"}).encode()) == "[31mred"


def test_redirects() -> None:
    base = "https://a.io/v2/x/blobs/1"
    assert resolve_location(base, "https://cdn.io/y?z", "w") == "https://cdn.io/y?z"
    assert resolve_location(base, "/y", "w") == "https://a.io/y"
    assert resolve_location("http://a.io/x", "https://b.io/y", "w") == "https://b.io/y"
    for wrong in (
        "",
        "ftp://a/x",
        "http://a.io/y",
        "https://[/",
        "file:///etc/passwd",
        "https://a\x00/",
    ):
        with pytest.raises(ProtocolError):
            resolve_location(base, wrong, "w")


def test_origins() -> None:
    assert origin_of("https://A.io/x") == origin_of("https://a.io:443/y")
    assert origin_of("https://a.io") != origin_of("http://a.io")
    assert origin_of("https://a.io") != origin_of("https://a.io:444")
    assert origin_of("https://a.io") != origin_of("https://a.io.evil.io")


def test_next_links() -> None:
    assert parse_next_link('</v2/x?n=1&last=a>; rel="next"') == "/v2/x?n=1&last=a"
    assert parse_next_link("<u>;rel=next") == "u"
    assert parse_next_link("<u>; rel=prev") is None


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("docker.io", ("https", False)),
        ("example.org:5000", ("https", False)),
        ("10.0.0.1:5000", ("https", False)),
        ("localhost", ("http", True)),
        ("localhost:5000", ("http", True)),
        ("127.3.2.1:5000", ("http", True)),
        ("[::1]:5000", ("http", True)),
        ("[2001:db8::1]", ("https", False)),
        ("localhost.example.org", ("https", False)),
        ("127.0.0.1.example.org", ("https", False)),
        ("plain.org", ("http", False)),
        ("plain.org:80", ("http", False)),
        ("other.org:80", ("http", False)),
        ("other.org", ("https", False)),
    ],
)
def test_plain_http_only_when_asked_and_on_loopback(host: str, scheme: tuple[str, bool]) -> None:
    assert scheme_for(host, ("plain.org", "other.org:80")) == scheme


def test_docker_hub_answers_elsewhere() -> None:
    assert address_of("docker.io") == "registry-1.docker.io"
    assert address_of("a.io:1") == "a.io:1"
