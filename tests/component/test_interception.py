"""Certificates that the proxy makes on the fly, while the clock moves."""

from __future__ import annotations

import datetime
import ssl

import pytest

from cafs.certificates.authority import Authority
from cafs.core.proxying.intercept import parse_host_patterns
from cafs.proxy.interception import Interception

HOST = "hub.example"
DAY = datetime.timedelta(days=1)


def shake_hands(server: ssl.SSLContext, authority: Authority) -> None:
    """Raises what a client raises that trusts the authority, by the clock of this machine."""
    trusting = ssl.create_default_context(cadata=authority.identity.certificate_pem.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=HOST)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, ours, client, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.mark.parametrize("off", [30 * DAY, -30 * DAY, -6.5 * DAY], ids=["ahead", "behind", "nearly over"])
def test_a_clock_that_jumps_costs_no_certificate(off: datetime.timedelta) -> None:
    """What was made by a clock that was wrong is made anew by one that is right."""
    real = datetime.datetime.now(datetime.UTC)
    authority = Authority.make("test", real - 90 * DAY, 180)
    now = [real + off]
    interception = Interception(authority, parse_host_patterns([HOST]), lambda: now[0])
    made = interception.context_for(HOST)
    now[0] = real
    right = interception.context_for(HOST)
    shake_hands(right, authority)
    assert right is interception.context_for(HOST)
    if abs(off) > 7 * DAY:
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(made, authority)
