"""Requests passed on to the origin as they are, and its answer passed back (trio)."""

from __future__ import annotations

from contextlib import aclosing

from cafs.core.proxying.content import digest_in
from cafs.core.proxying.fields import for_client, for_origin
from cafs.core.proxying.head import Field
from cafs.proxy.origin import OriginAnswer, OriginRequest
from cafs.proxy.parts import Parts, Turn
from cafs.proxy.withholding import withhold

_BODILESS = frozenset((204, 304))


async def forward(turn: Turn, parts: Parts) -> None:
    """Serve one request. A blob's body is verified on its way here, too.

    Raises:
        CafsError: there is no answer, or it broke; the client's side may have begun.
    """
    head, address = turn.head, turn.plan.address
    fields = for_origin(head.fields, address.host_field, parts.our_name)
    if head.method == "GET" and digest_in(address.path):  # packed for the way it would have another digest
        fields = [*((n, v) for n, v in fields if n != "accept-encoding"), ("accept-encoding", "identity")]
    async with aclosing(turn.client.body()) as body:
        sent = body if head.body_bytes != 0 else None
        answer = await parts.origins.ask(OriginRequest(head.method, address, fields, sent, head.body_bytes))
        try:
            await _pass_back(turn, answer, parts)
        finally:
            answer.close()


async def _pass_back(turn: Turn, answer: OriginAnswer, parts: Parts) -> None:
    client, method, address = turn.client, turn.head.method, turn.plan.address
    blob = digest_in(address.path) if method == "GET" and answer.status == 200 else None
    async with aclosing(withhold(_Body(answer), blob, f"the blob from {address.authority}")) as pieces:
        has_body = method != "HEAD" and answer.status not in _BODILESS
        first = await anext(pieces, b"") if has_body else b""
        client.begin_answer(*_head(turn, answer, parts.our_name))
        if first:
            await client.send(first)
            parts.figures.forwarded_bytes += len(first)
            async for piece in pieces:
                await client.send(piece)
                parts.figures.forwarded_bytes += len(piece)
    await client.end()


def _head(turn: Turn, answer: OriginAnswer, our_name: str) -> tuple[int, str, list[Field]]:
    """Status, reason and fields as the client gets them."""
    fields = for_client(answer.fields, our_name)
    if turn.site and turn.site.settles(turn.head.method, answer.get("location"), turn.plan.address):
        size = answer.get("x-linked-size") or ""
        kept = [(n, v) for n, v in turn.site.rewrite(fields, turn.plan.address) if n != "location"]
        return 200, "OK", [*kept, ("content-length", size)] if size.isdecimal() else kept
    if turn.site is not None:
        fields = turn.site.rewrite(fields, turn.plan.address)
    length = answer.get("content-length")
    if length is not None and answer.status != 204:
        fields.append(("content-length", length))
    return answer.status, answer.reason, fields


class _Body:
    """An answer's body as an iterator, which needs no closing of its own."""

    def __init__(self, answer: OriginAnswer) -> None:
        self._answer = answer

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._answer.receive()
        if not piece:
            raise StopAsyncIteration
        return piece
