"""For which hosts TLS is opened: patterns of the setting ``proxy_intercept``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cafs.core.proxying.address import Authority, parse_authority
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.errors import UsageError


@dataclass(frozen=True, slots=True)
class HostPattern:
    """``HOST[:PORT]`` or ``*.DOMAIN[:PORT]``; the latter means all below it, not the domain itself."""

    host: str
    port: int
    below: bool

    def matches(self, authority: Authority) -> bool:
        """Whether ``authority`` is meant."""
        if authority.port != self.port:
            return False
        return authority.host.endswith("." + self.host) if self.below else authority.host == self.host


def parse_host_patterns(texts: Sequence[str]) -> tuple[HostPattern, ...]:
    """Read the setting.

    Raises:
        UsageError: one of them is none; all hosts (``*``) cannot be listed.
    """
    return tuple(_parse(text, number) for number, text in enumerate(texts, 1))


def _parse(text: str, number: int) -> HostPattern:
    below = text.startswith("*.")
    try:
        authority = parse_authority(text.removeprefix("*."), 443)
    except RequestRefusedError as e:
        raise UsageError(
            f"number {number}, {text[:80]!r}: expected HOST, *.DOMAIN, or one of these with :PORT"
        ) from e
    return HostPattern(authority.host, authority.port, below)
