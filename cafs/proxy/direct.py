"""``DirectDistributor``: content straight from its origin, when P2P is off or for what has no peers (trio).

Follows redirects, without credentials to another origin, and every hop's address is guarded. An origin that
ignores a range is read up to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

from cafs.core.body_window import BodyWindow
from cafs.core.proxying.address import Address, parse_absolute
from cafs.core.proxying.byte_range import ByteRange
from cafs.core.proxying.fields import without_credentials
from cafs.core.proxying.head import Field
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.errors import ProtocolError
from cafs.oci.registry.answers import REDIRECTS, ContentRange, parse_content_range
from cafs.p2p.content import Headers, OriginError, Wish
from cafs.proxy.origin import OriginAnswer, OriginRequest, Origins

MAX_ERROR_BYTES = 1 << 20
"""Of an origin's refusal that is passed on; more is cut off."""
_MAX_REDIRECTS = 10


class DirectDistributor:
    """See ``Distributor``."""

    def __init__(self, origins: Origins, our_name: str = "cafs") -> None:
        self._origins = origins
        self._our_name = our_name

    async def open(self, wish: Wish) -> DirectContent:
        """See ``Distributor``."""
        whole = wish.first_byte == 0 and wish.last_byte is None
        fields = [*wish.headers, ("accept-encoding", "identity")]
        if not whole:
            fields.append(("range", str(ByteRange(wish.first_byte, wish.last_byte))))
        answer = await ask_following(self._origins, "GET", parse_absolute(wish.url), fields, self._our_name)
        try:
            if answer.status not in {200, 206}:
                raise await origin_error(answer)
            return DirectContent(answer, _span(answer, wish))
        except BaseException:
            answer.close()
            raise


async def ask_following(
    origins: Origins, method: str, address: Address, fields: list[Field], our_name: str
) -> OriginAnswer:
    """A bodiless request, sent on wherever the origin says.

    Raises:
        RequestRefusedError: an address on the way must not be asked.
        ProtocolError: redirects in a circle, or to nowhere, or from https to http.
        RemoteError: as ``Origins.ask``.
    """
    for _ in range(_MAX_REDIRECTS):
        sent = [("host", address.host_field), *fields, ("via", f"1.1 {our_name}")]
        answer = await origins.ask(OriginRequest(method, address, sent))
        if answer.status not in REDIRECTS or not answer.get("location"):
            return answer
        answer.close()
        onward = _onward(address, answer.get("location") or "")
        if onward.origin != address.origin:
            fields = without_credentials(fields)
        address = onward
    raise ProtocolError(f"{address.authority}: more than {_MAX_REDIRECTS} redirects")


def _onward(address: Address, location: str) -> Address:
    who = address.authority
    try:
        onward = parse_absolute(urljoin(address.url, location.partition("#")[0]))
    except (ValueError, RequestRefusedError) as e:
        raise ProtocolError(f"{who} sent us on to something that is no address") from e
    if address.scheme == "https" and onward.scheme == "http":
        raise ProtocolError(f"{who} sent us on in plain HTTP: not followed")
    return onward


async def origin_error(answer: OriginAnswer) -> OriginError:
    """An answer that is no, as it will be passed on."""
    body = await answer.receive_all(MAX_ERROR_BYTES)
    message = f"{answer.address.authority}: answered {answer.status} {answer.reason}"
    return OriginError(message, answer.status, tuple(answer.fields), body)


@dataclass(frozen=True, slots=True)
class _Span:
    first: int
    last: int | None
    total: int | None
    skip: int = 0
    """Bytes that come before the first wanted one."""


def _span(answer: OriginAnswer, wish: Wish) -> _Span:
    """Which bytes the body holds."""
    if answer.status == 206:
        found = parse_content_range(answer.get("content-range") or "")
        if found is None or not _is_asked_for(found, wish):
            raise ProtocolError(f"{answer.address.authority}: answered with another range than was asked for")
        return _Span(found.first, found.last, found.total)
    length = answer.get("content-length")
    total = int(length) if length is not None else None
    if total is None:
        return _Span(wish.first_byte, wish.last_byte, None, wish.first_byte)
    if wish.first_byte >= total and wish.first_byte > 0:
        headers: Headers = (("content-range", f"bytes */{total}"),)
        raise OriginError(
            f"{answer.address.authority}: the content has {total} bytes only", 416, headers, b""
        )
    last = total - 1 if wish.last_byte is None else min(wish.last_byte, total - 1)
    return _Span(wish.first_byte, last, total, wish.first_byte)


def _is_asked_for(found: ContentRange, wish: Wish) -> bool:
    """Exactly what was wanted, as far as there is so much."""
    end = None if found.total is None else found.total - 1
    last = end if wish.last_byte is None else wish.last_byte if end is None else min(wish.last_byte, end)
    return found.first == wish.first_byte and (last is None or found.last == last)


class DirectContent:
    """See ``Content``."""

    def __init__(self, answer: OriginAnswer, span: _Span) -> None:
        self._answer = answer
        self._span = span
        self.status = answer.status
        self.headers: Headers = tuple(answer.fields)
        self.content_bytes = span.total
        self.first_byte = span.first
        self.last_byte = span.last
        self._window = BodyWindow(span.skip, None if span.last is None else span.last - span.first + 1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._window.left != 0 and (piece := await self._answer.receive()):
            if wanted := self._window.cut(piece):
                return wanted
        if self._window.left:
            who = self._answer.address.authority
            raise ProtocolError(f"{who}: the answer ended {self._window.left} bytes too soon")
        raise StopAsyncIteration
