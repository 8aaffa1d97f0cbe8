"""Where a host says that others reach it."""

from __future__ import annotations

import pytest

from cafs.core.host_address import parse_address
from cafs.errors import ProtocolError


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("10.0.0.7:65002", "10.0.0.7:65002"),
        ("10.0.0.7:065", "10.0.0.7:65"),
        ("[2001:DB8::0:7]:1", "[2001:db8::7]:1"),
        ("[::ffff:10.0.0.7]:1", "[::ffff:a00:7]:1"),
    ],
)
def test_addresses(said: str, meant: str) -> None:
    assert parse_address(said) == meant


@pytest.mark.parametrize(
    "said",
    [
        "[2001:db8::1%eth0]:80", "[2001:db8::1%a name\0]:80", f"[2001:db8::1%{'z' * 5000}]:80",
        f"10.0.0.7:{'1' * 5000}", "10.0.0.7:+1", "10.0.0.7:\u0661", "[10.0.0.7]:1", "2001:db8::7:1",
        "[::ffff:169.254.169.254]:80", "[::ffff:0.0.0.0]:80", "169.254.169.254:80", "",
    ],
)  # fmt: skip
def test_what_is_no_address_or_nobodys(said: str) -> None:
    """A zone is any text: it went into other hosts' requests, and into a table with too little room."""
    with pytest.raises(ProtocolError, match=r"^address: "):
        parse_address(said)
