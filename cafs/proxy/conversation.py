"""The requests of one connection, one after the other (trio).

What a request is for is found out here, by the form of its target; what becomes of it is decided by
``cafs.core.proxying.routing``, and done by ``forwarding``, ``distribution`` and ``tunnel``. A failure before
the answer began is answered; after that the connection is broken off: nobody must take a part for the whole.
"""

from __future__ import annotations

import logging
import ssl

import h11
import trio

from cafs.core.proxying.address import Address, Authority, parse_absolute, parse_authority, parse_origin_form
from cafs.core.proxying.directed import parse_directions
from cafs.core.proxying.fields import went_through
from cafs.core.proxying.head import RequestHead
from cafs.core.proxying.mirror import REGISTRY_FIELD, address_below, parse_mirrored
from cafs.core.proxying.refusal import RequestRefusedError, bad_request
from cafs.core.proxying.routing import Way, plan_request
from cafs.core.proxying.rules import Action, first_match
from cafs.errors import CafsError
from cafs.p2p.content import OriginError
from cafs.proxy.answers import answer_for
from cafs.proxy.client import Client
from cafs.proxy.distribution import distribute
from cafs.proxy.forwarding import forward
from cafs.proxy.mirrored import MirroredSite
from cafs.proxy.parts import Parts, Turn
from cafs.proxy.tunnel import splice

log = logging.getLogger(__name__)

_HANDSHAKE_S = 15.0
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Conversation:
    """See the module."""

    def __init__(self, parts: Parts, stream: trio.abc.Stream, inside: Authority | None = None) -> None:
        """``inside``: the host whose TLS was opened; ``stream`` is what is in it."""
        self._parts = parts
        self._client = Client(stream)
        self._inside = inside

    @property
    def is_read_out(self) -> bool:
        """The client has ended its side, and all that it sent was read."""
        return self._client.has_ended

    async def run(self) -> None:
        """Until either side has enough."""
        while True:
            try:
                head = await self._client.next_head()
            except RequestRefusedError as e:
                await self._tell(e, last=True)
                return
            if head is None:
                return
            if head.method == "CONNECT":
                await self._connect(head)
                return
            if not await self._answer(head):
                return

    async def _answer(self, head: RequestHead) -> bool:
        """Serve one request; False when the connection must end."""
        try:
            await self._serve(head)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise  # the client's side: there is nobody to tell
        except Exception as e:
            if not isinstance(e, CafsError | h11.LocalProtocolError):
                log.exception("a request failed in an unforeseen way")
            if self._client.answered:
                self._parts.figures.failures["broken"] += 1
                log.warning("an answer was broken off: %s", e)
                raise trio.BrokenResourceError("broken off") from e
            await self._tell(e)
        return await self._client.next_cycle()

    async def _tell(self, error: Exception, *, last: bool = False) -> None:
        answer = answer_for(error, self._parts.our_name)
        word = dict(answer.fields).get("x-cafs-error")
        if word is not None and not isinstance(error, OriginError):
            self._parts.figures.failures[word] += 1
            log.info("answered %d: %s", answer.status, error)
        fields = [*answer.fields, ("connection", "close")] if last else answer.fields
        await self._client.send_whole(answer.status, answer.reason, fields, answer.body)

    async def _serve(self, head: RequestHead) -> None:
        parts = self._parts
        if head.method == "TRACE":
            raise RequestRefusedError(405, "TRACE is not served")
        if went_through(head.fields, parts.our_name):
            raise RequestRefusedError(508, "this request has come through this proxy before")
        directions = parse_directions(head)
        address, site = self._address(head)
        plan = plan_request(head, address, directions, parts.rules.now)
        log.debug("%s %s: %s, %s", head.method, plan.address.authority, plan.way.value, plan.why)
        turn = Turn(self._client, head, plan, site)
        if plan.way is Way.DISTRIBUTE:
            if parts.admission is not None:
                await parts.admission.check(head, plan)
            parts.figures.requests["p2p"] += 1
            if await distribute(turn, parts):
                return
        parts.figures.requests["forward"] += 1
        await forward(turn, parts)

    def _address(self, head: RequestHead) -> tuple[Address, MirroredSite | None]:
        """What the request is for, by the form of its target."""
        if self._inside is not None:
            return self._address_inside(head, self._inside), None
        if not head.target.startswith("/"):
            return parse_absolute(head.target), None
        target = parse_origin_form(head.target)
        config = self._parts.config
        found = parse_mirrored(target, head.get(REGISTRY_FIELD), config.mirrors, config.default_registry)
        if found.mirror is None:
            return config.address_at(found.registry, found.target), None
        host = parse_authority(head.get("host"), 80)
        site = MirroredSite(found.mirror, f"http://{host}".removesuffix(":80"))
        return address_below(found.mirror, found.target), site

    def _address_inside(self, head: RequestHead, inside: Authority) -> Address:
        if head.target.startswith("/"):
            address = Address("https", inside, parse_origin_form(head.target))
        else:
            address = parse_absolute(head.target)
        hosts = {address.authority, parse_authority(head.get("host") or str(inside), 443)}
        if address.scheme != "https" or hosts != {inside}:
            raise RequestRefusedError(421, "this connection was opened to another host")
        return address

    async def _connect(self, head: RequestHead) -> None:
        parts = self._parts
        try:
            if self._inside is not None:
                raise bad_request("CONNECT within a connection that was opened is not served")
            authority = parse_authority(head.target)
            rule = first_match(parts.rules.now, Address("https", authority, "/").url)
            if rule is not None and rule.action is Action.BLOCKED:
                raise RequestRefusedError(403, "blocked by a rule of this proxy")
            interception = parts.config.interception
            if interception is not None and interception.wants(authority):
                await self._open(authority, interception.context_for(authority.host))
                return
            theirs = await parts.origins.connect_to(authority)
        except CafsError as e:
            await self._tell(e)
            return
        parts.figures.requests["tunnel"] += 1
        await self._tunnel(theirs)

    async def _tunnel(self, theirs: trio.SocketStream) -> None:
        ours = self._client.stream
        with theirs.socket:
            await ours.send_all(_ESTABLISHED)
            if unread := self._client.take_unread():
                await theirs.send_all(unread)
            await splice(ours, theirs)

    async def _open(self, authority: Authority, context: ssl.SSLContext) -> None:
        """Be the host for this client."""
        self._parts.figures.requests["intercepted"] += 1
        ours = self._client.stream
        await ours.send_all(_ESTABLISHED)
        if self._client.take_unread():
            return  # TLS that began before it was told to: no client does that
        secure = trio.SSLStream(ours, context, server_side=True, https_compatible=True)
        try:
            with trio.move_on_after(_HANDSHAKE_S) as scope:
                await secure.do_handshake()
        except trio.BrokenResourceError as e:
            log.info("%s: a client does not take our certificate: %s", authority, e.__cause__ or e)
            return
        if not scope.cancelled_caught:
            await Conversation(self._parts, secure, authority).run()
