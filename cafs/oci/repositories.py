"""The registries' repositories that layers come from: one object for each, shared by all images in it.

Used by the mount server and by the peer. One that is in no use and was not asked for is closed after a while,
so that a node that sees many images keeps few connections.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import trio

from cafs.core.settings import Settings
from cafs.oci.open_source import open_repository
from cafs.oci.reference import RegistryReference
from cafs.oci.registry.pull_secrets import SourcesOf
from cafs.oci.repository import Repository

IDLE_S = 120.0
"""Longer than any reader waits for a chunk: a flight may outlive its layer."""
_RETRIES = 1
"""Of what a container's start waits for: the ordinary way is open. Chunks have retries of their own."""


class Repositories:
    """Open repositories by host and name."""

    def __init__(self, settings: Settings, sources_of: SourcesOf) -> None:
        """
        Args:
            settings: How to speak to registries.
            sources_of: Where credentials for a repository are looked for.
        """
        self._settings = replace(settings, retries=min(settings.retries, _RETRIES))
        self._sources_of = sources_of
        self._open: dict[tuple[str, str], tuple[Repository, float]] = {}

    def get(self, reference: RegistryReference) -> Repository:
        """The repository that ``reference`` lies in."""
        key = reference.host, reference.repository
        repository, _ = self._open.get(key) or (self._make(reference), 0.0)
        self._open[key] = repository, trio.current_time()
        return repository

    async def close_idle(self, used: Collection[Repository]) -> None:
        """Close those that nobody has needed for long."""
        now = trio.current_time()
        for key, (repository, last) in tuple(self._open.items()):
            if repository in used:
                self._open[key] = repository, now
            elif last + IDLE_S < now:
                del self._open[key]
                await repository.aclose()

    async def aclose(self) -> None:
        """Close all."""
        while self._open:
            _, (repository, _) = self._open.popitem()
            await repository.aclose()

    def _make(self, reference: RegistryReference) -> Repository:
        return open_repository(reference, self._settings, self._sources_of)
