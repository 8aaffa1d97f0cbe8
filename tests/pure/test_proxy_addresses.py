"""Addresses as clients write them, mirrors, and which network addresses are guarded."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.proxying.address import (
    Authority,
    parse_absolute,
    parse_authority,
    parse_origin_form,
)
from cafs.core.proxying.guard import Guard, parse_guard
from cafs.core.proxying.intercept import parse_host_patterns
from cafs.core.proxying.mirror import (
    Mirrored,
    address_below,
    leads_away,
    parse_mirrored,
    parse_mirrors,
    rewrite_for_client,
    target_of,
)
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "url", "host_field"),
    [
        ("http://Origin.Example/a?b=%20", "http://origin.example/a?b=%20", "origin.example"),
        ("http://origin:8080", "http://origin:8080/", "origin:8080"),
        ("http://origin:80/x", "http://origin/x", "origin"),
        ("https://origin:443?q", "https://origin/?q", "origin"),
        ("http://[::1]:5000/", "http://[::1]:5000/", "[::1]:5000"),
        ("http://[2001:DB8::1]/", "http://[2001:db8::1]/", "[2001:db8::1]"),
    ],
)
def test_absolute_form(text: str, url: str, host_field: str) -> None:
    address = parse_absolute(text)
    assert (address.url, address.host_field) == (url, host_field)


@pytest.mark.parametrize(
    "text",
    [
        "", "origin/a", "//origin/a", "http:/origin", "http:///a", "http://user@origin/", "http://u:p@origin/",
        "http://ori gin/", "http://origin:0/", "http://origin:65536/", "http://origin:8o/",
        "http://origin\\@other/", "http://origin%2eexample/", "http://[::1/", "http://[fe80::1%25eth0]/",
        "http://origin/#f", "http://a..b/", "http://-a/", "http://" + "a" * 300 + "/", "http://origin/\u00e9",
    ],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        parse_absolute(text)
    assert refused.value.status == 400


def test_other_schemes() -> None:
    with pytest.raises(RequestRefusedError) as refused:
        parse_absolute("ftp://origin/a")
    assert refused.value.status == 501


def test_authority_form_needs_a_port() -> None:
    assert parse_authority("Origin:443") == Authority("origin", 443)
    assert parse_authority("[::1]:443") == Authority("::1", 443)
    for text in ("origin", "origin:", ":443", "[::1]", "[::1]443", "a:1:2"):
        with pytest.raises(RequestRefusedError):
            parse_authority(text)


@given(st.text(max_size=60))
def test_what_is_taken_means_one_host(text: str) -> None:
    """Never another host than a common library reads."""
    try:
        address = parse_absolute("http://" + text)
    except RequestRefusedError:
        return
    parts = urlsplit("http://" + text)
    assert (parts.hostname or "").strip("[]") in {address.authority.host, str(_ip(parts.hostname))}
    assert (parts.port or 80) == address.authority.port
    assert parse_absolute(address.url) == address


def _ip(text: str | None) -> object:
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        return None


MIRRORS = parse_mirrors(["hub=https://models.example", "wheels=http://pypi.example:8080/root/"])
DEFAULT = "docker.io"


@pytest.mark.parametrize(
    ("target", "field", "found"),
    [
        ("/v2/", "", Mirrored("/v2/", registry=DEFAULT)),
        ("/v2/a/manifests/1?ns=ghcr.io", "", Mirrored("/v2/a/manifests/1", registry="ghcr.io")),
        ("/v2/a/b/tags?n=1&ns=r.example%3A5000&x=2", "",
         Mirrored("/v2/a/b/tags?n=1&x=2", registry="r.example:5000")),
        ("/v2/a/blobs/x?ns=ghcr.io", "https://quay.io/", Mirrored("/v2/a/blobs/x", registry="quay.io")),
        ("/v2/a/blobs/x?ns=r:443", "", Mirrored("/v2/a/blobs/x", registry="r:443")),
        ("/v2/hub/a/blobs/x", "", Mirrored("/v2/a/blobs/x", mirror=MIRRORS["hub"])),
        ("/hub/a/resolve/main/f?x=1", "", Mirrored("/a/resolve/main/f?x=1", mirror=MIRRORS["hub"])),
        ("/hub", "", Mirrored("/", mirror=MIRRORS["hub"])),
    ],
)  # fmt: skip
def test_whom_a_path_is_for(target: str, field: str, found: Mirrored) -> None:
    assert parse_mirrored(target, field, MIRRORS, DEFAULT) == found


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/other/x", 404),
        ("/", 404),
        ("/v2/a?ns=a&ns=b", 400),
        ("/v2/a?ns=http://u@h", 400),
        ("/v2/a?ns=a/b", 400),
        ("/v2/a?ns=%0d%0aX", 400),
    ],
)
def test_paths_that_are_for_nobody(target: str, status: int) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        parse_mirrored(target, "", MIRRORS, DEFAULT)
    assert refused.value.status == status


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_any_path_is_for_somebody_or_refused(rest: str) -> None:
    try:
        found = parse_mirrored(parse_origin_form("/v2/" + rest), "", MIRRORS, DEFAULT)
    except RequestRefusedError:
        return
    assert bool(found.registry) != (found.mirror is not None)
    assert found.target.startswith("/")


def test_mirrors_that_are_none() -> None:
    for texts in (["hub"], ["hub=ftp://x"], ["hub=https://u@x"], ["a=https://x", "a=https://y"], ["v2=https://x"],
                  ["Hub=https://x"], ["a=https://x?y"]):  # fmt: skip
        with pytest.raises(UsageError, match="number"):
            parse_mirrors(texts)


def test_what_a_mirrored_site_names_leads_back_to_us() -> None:
    mirror, ours = MIRRORS["wheels"], "http://127.0.0.1:65001"
    address = address_below(mirror, "/x")
    assert address.url == "http://pypi.example:8080/root/x"
    assert target_of(mirror, address) == "/wheels/x"

    def rewritten(name: str, value: str) -> list[tuple[str, str]]:
        return rewrite_for_client([(name, value)], mirror, ours, address)

    assert rewritten("location", "/root/y?z") == [("location", f"{ours}/wheels/y?z")]
    away = "https://storage.example/y"
    assert rewritten("location", away) == [("location", away)]
    assert leads_away(away, mirror, address)
    assert not leads_away("/root/y", mirror, address)
    assert rewritten("link", '<http://pypi.example:8080/root/p2>; rel="next", <https://else/>') == [
        ("link", f'<{ours}/wheels/p2>; rel="next", <https://else/>')
    ]
    assert rewritten("x-xet-hash", "abc") == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "100.100.100.200",
        "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1",
        "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1",
        "::127.0.0.1", "2001:0:4136:e378:8000:63bf:5601:5601",
    ],
)  # fmt: skip
def test_guarded_addresses(address: str) -> None:
    asked = Authority("innocent.example", 80)
    assert Guard().refusal(asked, address)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.0.1", "8.8.8.8", "2001:4860::1", "fd12::1", "100.64.0.1"]
)
def test_all_others_may_be_reached(address: str) -> None:
    assert Guard().refusal(Authority("origin", 443), address) is None


def test_what_is_listed_may_be_reached() -> None:
    guard = parse_guard(["127.0.0.2", "fe80::/10", "localhost:5000", "metadata.example", "127.0.0.1:8080"])
    assert guard.refusal(Authority("x", 1), "127.0.0.2") is None
    assert guard.refusal(Authority("x", 1), "::ffff:127.0.0.2") is None
    assert guard.refusal(Authority("x", 1), "127.0.0.3")
    assert guard.refusal(Authority("x", 1), "fe80::1") is None
    assert guard.refusal(Authority("localhost", 5000), "127.0.0.1") is None
    assert guard.refusal(Authority("localhost", 5001), "127.0.0.1")
    assert guard.refusal(Authority("metadata.example", 80), "169.254.169.254") is None
    assert guard.refusal(Authority("other.example", 80), "169.254.169.254")
    assert guard.refusal(Authority("127.0.0.1", 8080), "127.0.0.1") is None
    with pytest.raises(UsageError, match="number 2"):
        parse_guard(["10.0.0.0/8", "a b"])


@given(st.ip_addresses())
def test_every_address_is_judged(ip: object) -> None:
    told = Guard().refusal(Authority("h", 1), str(ip))
    plain = ipaddress.ip_address(str(ip))
    if plain.is_loopback or plain.is_link_local or plain.is_multicast or plain.is_unspecified:
        assert told


def test_whose_tls_is_opened() -> None:
    exact, below = parse_host_patterns(["pypi.example", "*.hub.example:8443"])
    assert exact.matches(Authority("pypi.example", 443))
    assert not exact.matches(Authority("x.pypi.example", 443))
    assert below.matches(Authority("a.b.hub.example", 8443))
    assert not below.matches(Authority("hub.example", 8443))
    assert not below.matches(Authority("evilhub.example", 8443))
    for text in ("*", "*.", "a b", "https://a"):
        with pytest.raises(UsageError):
            parse_host_patterns([text])
