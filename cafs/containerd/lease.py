"""Leases: what a pull makes is not garbage until its image keeps it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import trio

from cafs.containerd.connection import Connection
from cafs.containerd.labels import LEASE_EXPIRES
from cafs.errors import CafsError
from cafs.proto import leases_pb2 as pb

_LASTS = timedelta(hours=24)
"""As containerd's client has it; a pull that was killed leaves its lease until then."""
_RELEASE_S = 10


class Lease:
    """One lease. Its id is known before containerd knows the lease."""

    def __init__(self, connection: Connection) -> None:
        self._service = connection.service(pb.DESCRIPTOR, "Leases")
        self._attempted = False
        self.id = f"cafs-{secrets.token_hex(8)}"

    async def make(self) -> None:
        """Only now may anything be made that is to belong to it."""
        # containerd reads RFC 3339.
        expires = (datetime.now(UTC) + _LASTS).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._attempted = True
        request = pb.CreateRequest(id=self.id, labels={LEASE_EXPIRES: expires})
        await self._service.call("Create", request, "making a lease")

    async def release(self) -> None:
        """End it, if it was made. Whatever stands in the way of this, it expires."""
        if self._attempted:
            with suppress(CafsError):
                await self._service.call("Delete", pb.DeleteRequest(id=self.id), "releasing a lease")


@asynccontextmanager
async def lease(connection: Connection) -> AsyncGenerator[Lease]:
    """A lease that is to be made in the block, while something else is waited for. It ends with the block."""
    held = Lease(connection)
    try:
        yield held
    finally:
        with trio.move_on_after(_RELEASE_S, shield=True):
            await held.release()
