"""A repository for as long as it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cafs.core.settings import Settings
from cafs.oci.open_source import open_repository
from cafs.oci.reference import Reference
from cafs.oci.repository import Repository

_CLOSE_DEADLINE_S = 5


@asynccontextmanager
async def opened(reference: Reference, settings: Settings) -> AsyncIterator[Repository]:
    """The repository that ``reference`` lies in; closed also when we are cancelled, in a few seconds."""
    repository = open_repository(reference, settings)
    try:
        yield repository
    finally:
        with trio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
            await repository.aclose()
