"""Addresses as clients of a proxy write them: absolute-form, authority-form, origin-form. Pure.

Strict on purpose: what two readers could take for two hosts (userinfo, percent signs, backslashes, odd
ports) is refused rather than guessed. Source: RFC 9112, 3.2 (request target).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from cafs.core.proxying.refusal import RequestRefusedError, bad_request

DEFAULT_PORTS = {"http": 80, "https": 443}
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?]*)([/?].*)?", re.DOTALL)
_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_\-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_\-]{1,63})*\.?"
)
_PORT = re.compile(r"[0-9]{1,5}")
_REST = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Authority:
    """A host in small letters, IPv6 without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """One resource: whom to ask, and for what."""

    scheme: str
    authority: Authority
    target: str
    """Path and query, as the origin gets it."""

    @property
    def host_field(self) -> str:
        """What the Host field says: no port where it is the usual one."""
        whole = str(self.authority)
        return whole.removesuffix(f":{DEFAULT_PORTS[self.scheme]}")

    @property
    def url(self) -> str:
        """As a whole."""
        return f"{self.scheme}://{self.host_field}{self.target}"

    @property
    def path(self) -> str:
        """Without the query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """Without the path and the question mark."""
        return self.target.partition("?")[2]

    @property
    def origin(self) -> tuple[str, Authority]:
        """What credentials are bound to."""
        return self.scheme, self.authority

    def in_tls(self) -> Self:
        """The same asked by https; another port than 80 stays."""
        port = 443 if self.scheme == "http" and self.authority.port == 80 else self.authority.port
        return replace(self, scheme="https", authority=replace(self.authority, port=port))


def parse_authority(text: str, default_port: int | None = None) -> Authority:
    """Read ``HOST:PORT``; ``HOST`` alone where there is a default.

    Raises:
        RequestRefusedError: it is not one.
    """
    if text.startswith("["):
        bracketed, closed, rest = text[1:].partition("]")
        host = _ipv6(bracketed) if closed else None
    else:
        name, colon, port = text.partition(":")
        host, rest = name.lower() if _NAME.fullmatch(name) else None, colon + port
    if host is None or (rest and not rest.startswith(":")):
        raise bad_request("not a host, or not one that is taken here")
    return Authority(host, _parse_port(rest[1:] if rest else "", default_port))


def _parse_port(text: str, default_port: int | None) -> int:
    if not text and default_port is not None:
        return default_port
    if not _PORT.fullmatch(text) or not 0 < int(text) < 1 << 16:
        raise bad_request("not a port")
    return int(text)


def _ipv6(text: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id else str(address)


def parse_absolute(text: str) -> Address:
    """Read ``http://HOST[:PORT]/PATH?QUERY``.

    Raises:
        RequestRefusedError: it is no such address, or names user and password or a fragment.
    """
    found = _ABSOLUTE.fullmatch(text)
    if found is None:
        raise bad_request("not an absolute address")
    scheme = found[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise RequestRefusedError(501, "only http and https addresses are served here")
    if "@" in found[2]:
        raise bad_request("an address must not name user and password: use the Authorization field")
    authority = parse_authority(found[2], DEFAULT_PORTS[scheme])
    rest = found[3] or "/"
    return Address(scheme, authority, parse_origin_form(rest if rest.startswith("/") else "/" + rest))


def parse_origin_form(text: str) -> str:
    """Check ``/PATH?QUERY``.

    Raises:
        RequestRefusedError: it is not one.
    """
    if not text.startswith("/") or "#" in text or "\\" in text or not _REST.fullmatch(text):
        raise bad_request("not a path of an address")
    return text
