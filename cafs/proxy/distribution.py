"""Content for a client from a ``Distributor``: ranges, conditions, digests (trio)."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from cafs.core.proxying.byte_range import content_range
from cafs.core.proxying.conditional import CONDITIONS, Verdict, judge, range_holds
from cafs.core.proxying.fields import for_client, for_wish
from cafs.core.proxying.head import Field, RequestHead
from cafs.core.proxying.routing import Plan
from cafs.p2p.content import Content, Wish
from cafs.proxy.answers import reason_of
from cafs.proxy.client import Client
from cafs.proxy.parts import Parts, Turn
from cafs.proxy.withholding import withhold

_NOT_SHARED = frozenset(
    ("set-cookie", "set-cookie2", "content-range", "accept-ranges", "www-authenticate", "age")
)
"""Of the origin's answer to whoever fetched first: not for others, or said anew."""


def wish_for(head: RequestHead, plan: Plan) -> Wish:
    """What the client wants, for a ``Distributor``."""
    directions, wanted = plan.directions, plan.wanted
    return Wish(
        url=plan.address.url,
        digest=plan.digest,
        tag=plan.scope + directions.tag if plan.scope else directions.tag,
        application=directions.application,
        filtered_query=directions.filtered_query,
        headers=for_wish(head.fields),
        priority=directions.priority,
        first_byte=(wanted.first or 0) if wanted else 0,
        last_byte=wanted.last if wanted else None,
    )


async def distribute(turn: Turn, parts: Parts) -> bool:
    """Serve one request; False when the origin must be asked itself, and nothing was said to the client yet.

    Raises:
        OriginError, CafsError: there is no content, or it broke; the client's side may have begun.
    """
    head, plan = turn.head, turn.plan
    async with await parts.distributor.open(wish_for(head, plan)) as content:
        etag, last_modified = _get(content, "etag"), _get(content, "last-modified")
        verdict = judge(_conditions(head), etag, last_modified)
        if verdict is not Verdict.PROCEED:
            await _send_verdict(turn.client, verdict, content, parts.our_name)
            return True
        if_range = head.get("if-range")
        if plan.wanted is None or not if_range or range_holds(if_range, etag, last_modified):
            return await _send(turn.client, plan, content, parts)
    whole = replace(plan, wanted=None)
    async with await parts.distributor.open(wish_for(head, whole)) as content:
        return await _send(turn.client, whole, content, parts)


def _conditions(head: RequestHead) -> dict[str, str]:
    return {name: head.get(name) for name in CONDITIONS if head.get(name)}


def _get(content: Content, name: str) -> str:
    return next((value for key, value in content.headers if key.lower() == name), "")


def _fields(content: Content, our_name: str) -> list[Field]:
    passed = [(n, v) for n, v in for_client(content.headers, our_name) if n not in _NOT_SHARED]
    return [*passed, ("accept-ranges", "bytes")]


async def _send_verdict(client: Client, verdict: Verdict, content: Content, our_name: str) -> None:
    fields = [(n, v) for n, v in _fields(content, our_name) if n not in {"content-type", "content-encoding"}]
    await client.send_bodiless(verdict.value, reason_of(verdict.value), fields)


async def _send(client: Client, plan: Plan, content: Content, parts: Parts) -> bool:
    fields = _fields(content, parts.our_name)
    last, whole = content.last_byte, plan.wanted is None
    whole = whole or content.content_bytes == 0  # of which there is no range
    if not whole:
        if last is None:
            return False  # a part whose end nobody knows cannot be named
        fields.append(("content-range", content_range(content.first_byte, last, content.content_bytes)))
    if last is not None:
        fields.append(("content-length", str(last - content.first_byte + 1)))
    status = 200 if whole else 206
    all_of_it = whole or (content.first_byte == 0 and last == (content.content_bytes or 0) - 1)
    what = f"the content from {plan.address.authority}"
    async with aclosing(withhold(aiter(content), plan.digest if all_of_it else None, what)) as pieces:
        first = await anext(pieces, b"")  # before the head: failures up to here get an honest status
        client.begin_answer(status, reason_of(status), fields)
        if first:
            await client.send(first)
            parts.figures.distributed_bytes += len(first)
        async for piece in pieces:
            await client.send(piece)
            parts.figures.distributed_bytes += len(piece)
    await client.end()
    return True
