"""Header fields on their way through a proxy: which end here, which go on. Pure.

Sources: RFC 9110, 7.6.1 (Connection), 7.6.3 (Via), 11.7 (Proxy-Authenticate), 10.1.1 (Expect).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cafs.core.credentials import is_secret_field
from cafs.core.proxying.head import Field

OURS = "x-cafs-"
"""Fields that are meant for us, and never reach an origin."""
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
     "proxy-authentication-info", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings")
)  # fmt: skip
_NEVER_NAMED = frozenset(("host", "content-length", "cache-control"))
"""What Connection cannot take away, beside credentials."""
_NOT_IN_A_WISH = frozenset(
    ("host", "content-length", "expect", "range", "if-range", "if-match", "if-none-match",
     "if-modified-since", "if-unmodified-since", "accept-encoding", "max-forwards", "via")
)  # fmt: skip
"""What is between this client and us, or would make one content different for each client."""


def end_to_end(fields: Sequence[Field]) -> list[Field]:
    """Without the fields that are for the next hop only, and those that Connection names.

    What Connection must not take away stays: a client could make an origin lose a length or a host by it.
    """
    named = {
        option.strip().lower()
        for name, value in fields
        if name == "connection"
        for option in value.split(",")
    }
    kept = {name for name in named if name in _NEVER_NAMED or is_secret_field(name)}
    drop = HOP_BY_HOP | (named - kept)
    return [(name, value) for name, value in fields if name not in drop]


def for_origin(fields: Sequence[Field], host_field: str, our_name: str) -> list[Field]:
    """The fields of a request as they go to the origin; Host first, and ``our_name`` last of Via."""
    passed = [
        (name, value)
        for name, value in end_to_end(fields)
        if not name.startswith(OURS) and name not in {"host", "via", "expect", "content-length"}
    ]
    return [("host", host_field), *passed, ("via", _via(fields, our_name))]


def for_wish(fields: Sequence[Field]) -> tuple[Field, ...]:
    """The fields of a request for content that go to the origin with whoever fetches it for this host."""
    return tuple(
        (name, value)
        for name, value in end_to_end(fields)
        if not name.startswith(OURS) and name not in _NOT_IN_A_WISH
    )


def for_client(fields: Iterable[Field], our_name: str) -> list[Field]:
    """The fields of an origin's answer as they go to the client."""
    answered = [(name.lower(), value) for name, value in fields]
    passed = [(name, value) for name, value in end_to_end(answered) if name not in {"content-length", "via"}]
    return [*passed, ("via", _via(answered, our_name))]


def without_credentials(fields: Iterable[Field]) -> list[Field]:
    """For another origin than the one they were given for."""
    return [(name, value) for name, value in fields if not is_secret_field(name)]


def credentials(fields: Iterable[Field]) -> tuple[Field, ...]:
    """What says to the origin who the client is."""
    return tuple((n, v) for n, v in fields if n not in HOP_BY_HOP and is_secret_field(n))


def went_through(fields: Iterable[Field], our_name: str) -> bool:
    """Whether Via says that this very proxy has passed the request on already: a loop."""
    return any(our_name in value.replace(",", " ").split() for name, value in fields if name == "via")


def _via(fields: Iterable[Field], our_name: str) -> str:
    before = [value for name, value in fields if name == "via"]
    return ", ".join([*before, f"1.1 {our_name}"])
