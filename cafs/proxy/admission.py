"""Content is handed out only of addresses that may be asked, and private one only to whom the origin lets in.

The swarm may hold what this client must not see. So a request that shows credentials is tried at the origin
first, for one byte; that it was let in is remembered for some minutes, by a hash of what it showed. Requests
without credentials need no trial: what they can get is kept in tasks of its own (``Plan.scope``), into
which nothing comes but what the origin gives to anybody.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import trio

from cafs.core.proxying.fields import credentials, for_wish
from cafs.core.proxying.head import RequestHead
from cafs.core.proxying.routing import Plan
from cafs.proxy.direct import ask_following, origin_error
from cafs.proxy.origin import Origins

REMEMBERED_S = 300.0
_MAX_REMEMBERED = 10_000
_LET_IN = frozenset((200, 206, 416))
"""416: there is not even one byte."""


class Admission:
    """See the module."""

    def __init__(self, origins: Origins, our_name: str, remembered_s: float = REMEMBERED_S) -> None:
        self._origins = origins
        self._our_name = our_name
        self._remembered_s = remembered_s
        self._let_in: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, head: RequestHead, plan: Plan) -> None:
        """Return if the client may have what it asks for.

        Raises:
            RequestRefusedError: nobody is sent to this address.
            OriginError: the origin says no, and how.
            RemoteError: it says nothing.
        """
        await self._origins.check(plan.address.authority)
        if not plan.scope:
            return
        key = _key(head, plan)
        until = self._let_in.get(key)
        if until is not None and until > trio.current_time():
            return
        fields = [*for_wish(head.fields), ("range", "bytes=0-0"), ("accept-encoding", "identity")]
        answer = await ask_following(self._origins, "GET", plan.address, fields, self._our_name)
        try:
            if answer.status not in _LET_IN:
                raise await origin_error(answer)
            await answer.receive_all(1)
        finally:
            answer.close()
        self._remember(key)

    def _remember(self, key: bytes) -> None:
        self._let_in[key] = trio.current_time() + self._remembered_s
        self._let_in.move_to_end(key)
        while len(self._let_in) > _MAX_REMEMBERED:
            self._let_in.popitem(last=False)


def _key(head: RequestHead, plan: Plan) -> bytes:
    hasher = hashlib.sha256()
    for part in (plan.address.url, *(text for field in credentials(head.fields) for text in field)):
        encoded = part.encode("utf-8", "surrogateescape")
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
    return hasher.digest()
