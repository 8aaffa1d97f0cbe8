"""Opens TLS of listed hosts: certificates on the fly, signed by our own authority (opt-in).

A client that trusts ``ca.pem`` speaks to us as if we were the host; we speak to the host in TLS and verify it
as ever. Hosts that are not listed are tunnelled, unopened. One key serves all certificates: making one
takes a millisecond, and they never touch the disk.
"""

from __future__ import annotations

import datetime
import os
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from cafs.certificates.authority import Authority
from cafs.core.proxying.address import Authority as Host
from cafs.core.proxying.intercept import HostPattern

_KEPT = 1000
_DAYS = 7
_RENEW = datetime.timedelta(days=_DAYS - 1)
_NO_AGE = datetime.timedelta()


Clock = Callable[[], datetime.datetime]


def _clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Interception:
    """Which hosts, and with what certificates."""

    def __init__(self, authority: Authority, patterns: Sequence[HostPattern], clock: Clock = _clock) -> None:
        self._authority = authority
        self._clock = clock
        self._patterns = tuple(patterns)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, tuple[datetime.datetime, ssl.SSLContext]] = OrderedDict()

    def wants(self, host: Host) -> bool:
        """Whether this host is listed."""
        return any(pattern.matches(host) for pattern in self._patterns)

    def context_for(self, host: str) -> ssl.SSLContext:
        """For a server that is ``host``."""
        now = self._clock()
        made, context = self._contexts.get(host, (None, None))
        # A clock that was set back leaves certificates that are not valid yet.
        if made is None or context is None or not _NO_AGE <= now - made <= _RENEW:
            context = self._make(host, now)
            self._contexts[host] = (now, context)
        self._contexts.move_to_end(host)
        if len(self._contexts) > _KEPT:
            self._contexts.popitem(last=False)
        return context

    def _make(self, host: str, now: datetime.datetime) -> ssl.SSLContext:
        identity = self._authority.issue(host, [host], now, _DAYS, self._key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        _load(context, identity.certificate_pem + identity.key_pem)
        return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """The ssl module reads files only: this one has no name and ends with us."""
    descriptor = os.memfd_create("certificate")
    with os.fdopen(descriptor, "r+b") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(Path(f"/proc/self/fd/{descriptor}"))
