"""A request's head, read more strictly than HTTP libraries do. Pure.

A proxy that reads a request otherwise than the origin behind it can be made to smuggle a second one past its
own rules. So everything that is known to be read in two ways is refused here, before h11 sees it: bare line
feeds, folded lines, space before the colon, repeated or contradicting lengths, several hosts.

Sources: RFC 9112, 2.2 (message parsing), 5.1 and 5.2 (field lines), 6.3 (length of a body), 3.2 (Host).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cafs.core.proxying.refusal import RequestRefusedError, bad_request

MAX_HEAD_BYTES = 64 << 10
"""Registry tokens and cookies are long, but not that long."""
MAX_TARGET_BYTES = 16 << 10
MAX_FIELDS = 200
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(r"[\x21-\x7e]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_END = b"\r\n\r\n"
_BARE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])", re.DOTALL)

Field = tuple[str, str]
"""A name in small letters, and its value without surrounding space."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body."""

    method: str
    target: str
    http_1_0: bool
    fields: tuple[Field, ...]
    body_bytes: int | None
    """0: it has no body; None: chunked."""

    def get(self, name: str, default: str = "") -> str:
        """The field's value; of a field that came more than once, all of them with commas between."""
        return ", ".join(self.all(name)) or default

    def all(self, name: str) -> list[str]:
        """Every value of the field in the order of their coming."""
        return [value for key, value in self.fields if key == name]

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants to send another request on this connection."""
        options = {option.strip().lower() for option in self.get("connection").split(",")}
        return "close" not in options and (not self.http_1_0 or "keep-alive" in options)


def find_head(received: bytes | bytearray, seen: int = 0) -> int | None:
    """The length of the head that ``received`` begins with; None while it is not whole.

    Args:
        received: From the first byte of the head on.
        seen: So much of it was looked at before: a client that sends byte by byte must not have all of it
            looked at for each.

    Raises:
        RequestRefusedError: it can be no head, or is too long.
    """
    end = received.find(_END, max(0, seen - len(_END)))
    head = received[: end + len(_END)] if end >= 0 else received
    if _BARE.search(head, max(0, seen - 1)):
        raise bad_request("a line must end with CR LF, and neither may stand alone")
    if len(head) > MAX_HEAD_BYTES:
        raise RequestRefusedError(431, f"the head of a request has {MAX_HEAD_BYTES} bytes at most")
    if end < 0 and len(head) > MAX_TARGET_BYTES + 100 and head.find(b"\r\n", 0, MAX_TARGET_BYTES + 100) < 0:
        raise RequestRefusedError(414, f"an address has {MAX_TARGET_BYTES} bytes at most")
    return end + len(_END) if end >= 0 else None


def parse_head(head: bytes) -> RequestHead:
    """Read a whole head, with the empty line that ends it.

    Raises:
        RequestRefusedError: malformed, ambiguous or too much.
    """
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, http_1_0 = _parse_request_line(lines[0])
    if len(lines) - 1 > MAX_FIELDS:
        raise RequestRefusedError(431, f"a request has {MAX_FIELDS} header fields at most")
    fields = tuple(_parse_field(line) for line in lines[1:])
    _check_host(fields, http_1_0)
    return RequestHead(method, target, http_1_0, fields, _body_bytes(fields, http_1_0))


def _parse_request_line(line: str) -> tuple[str, str, bool]:
    words = line.split(" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not _TARGET.fullmatch(words[1]):
        raise bad_request("the request line must be METHOD TARGET HTTP/1.1")
    method, target, version = words
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        known = re.fullmatch(r"HTTP/[0-9](\.[0-9])?", version)
        raise RequestRefusedError(505, "HTTP/1.1 only") if known else bad_request("no version of HTTP")
    if len(target) > MAX_TARGET_BYTES:
        raise RequestRefusedError(414, f"an address has {MAX_TARGET_BYTES} bytes at most")
    return method, target, version == "HTTP/1.0"


def _parse_field(line: str) -> Field:
    if line.startswith((" ", "\t")):
        raise bad_request("a header field must not be folded over several lines")
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise bad_request("a header field must be NAME: VALUE, without a space before the colon")
    if not FIELD_VALUE.fullmatch(value):
        raise bad_request("a header field must not hold control characters")
    return name.lower(), value.strip(" \t")


def _check_host(fields: Iterable[Field], http_1_0: bool) -> None:
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1 or (not hosts and not http_1_0):
        raise bad_request("a request must have one Host field")


def _body_bytes(fields: Sequence[Field], http_1_0: bool) -> int | None:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise bad_request("the length of a body must be said once: Content-Length or Transfer-Encoding")
    if codings:
        if http_1_0:
            raise bad_request("HTTP/1.0 knows no Transfer-Encoding")
        if codings[0].lower() != "chunked":
            raise RequestRefusedError(501, "the only Transfer-Encoding known here is chunked")
        return None
    if not lengths:
        return 0
    if not _LENGTH.fullmatch(lengths[0]):
        raise bad_request("Content-Length must be a number")
    return int(lengths[0])
