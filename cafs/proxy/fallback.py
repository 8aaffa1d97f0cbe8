"""``PeerOrDirect``: through this node's peer while one runs, straight from the origin otherwise (trio).

Straight also what the peer has no room for, as a full disk there costs nobody his content, and what an origin
lets nobody share.
"""

from __future__ import annotations

import logging

from cafs.errors import StorageError, UnavailableError
from cafs.p2p.content import Content, Distributor, Wish

log = logging.getLogger(__name__)


class PeerOrDirect:
    """See ``Distributor``. The peer may come and go: every wish asks it first."""

    def __init__(self, peer: Distributor, direct: Distributor) -> None:
        self._peer = peer
        self._direct = direct
        self._away = False
        self.by_peer = True
        """The peer has served all so far."""

    async def open(self, wish: Wish) -> Content:
        """See ``Distributor``."""
        try:
            content = await self._peer.open(wish)
        except (UnavailableError, StorageError) as e:
            if not self._away:
                log.info("%s: content comes straight from its origin meanwhile", e)
            self._away, self.by_peer = True, False
            return await self._direct.open(wish)
        self._away = False
        return content
