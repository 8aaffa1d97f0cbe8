"""Brings layers' blobs from the registry into containerd's content store, a few at once.

Downloads run in the owner's nursery: a failed one ends the pull. One that turns out not to be needed is
cancelled, and leaves nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from cafs.containerd.content import Content
from cafs.containerd.labels import source_label
from cafs.core.digest import Digest
from cafs.core.progress import Progress, Step
from cafs.oci.descriptor import Descriptor
from cafs.oci.registry.repository import RegistryRepository

_AT_ONCE = 4
"""containerd's own client takes three; more fill no link better, and each holds its pieces in memory."""


@dataclass
class _Download:
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Downloads:
    """The blobs of one image's layers on their way."""

    def __init__(
        self, nursery: trio.Nursery, repository: RegistryRepository, content: Content, progress: Progress
    ) -> None:
        self._nursery = nursery
        self._repository = repository
        self._content = content
        self._progress = progress
        self._slots = trio.CapacityLimiter(_AT_ONCE)
        self._downloads: dict[Digest, _Download] = {}
        self.fetched_bytes = 0
        """What came from the registry."""

    def start(self, layer: Descriptor) -> None:
        """Begin to bring a blob; once is enough."""
        if layer.digest not in self._downloads:
            self._downloads[layer.digest] = download = _Download()
            self._nursery.start_soon(self._run, layer, download)

    async def wait(self, layer: Descriptor) -> None:
        """Until a blob that was started is there."""
        await self._downloads[layer.digest].done.wait()

    def forget(self, layer: Descriptor) -> None:
        """A blob is not needed after all."""
        if download := self._downloads.pop(layer.digest, None):
            download.scope.cancel()

    async def _run(self, layer: Descriptor, download: _Download) -> None:
        with download.scope:
            async with self._slots:
                await self._fetch(layer)
            download.done.set()

    async def _fetch(self, layer: Descriptor) -> None:
        labels = dict(filter(None, [source_label(self._repository.host, self._repository.repository)]))
        if await self._is_there(layer):
            return
        step = self._progress.step(f"layer {layer.digest.partition(':')[2][:12]}", layer.size)
        note = "given up"
        try:
            wrote = await self._content.write_stream(layer, lambda: self._watched(layer, step), labels)
            note = "" if wrote else "already there"
        finally:
            step.finish(note)

    async def _is_there(self, layer: Descriptor) -> bool:
        """Adds its source to a blob that is, as containerd's client does."""
        before = await self._content.labels(layer)
        if before is None:
            return False
        host, repository = self._repository.host, self._repository.repository
        label = source_label(host, repository)
        label = source_label(host, repository, before.get(label[0], "")) if label else None
        if label and before.get(label[0]) != label[1]:
            await self._content.add_labels(layer, dict([label]))
        return True

    @asynccontextmanager
    async def _watched(self, layer: Descriptor, step: Step) -> AsyncGenerator[AsyncIterator[bytes]]:
        async with self._repository.blob(layer) as pieces:
            yield self._counted(pieces, step)

    async def _counted(self, pieces: AsyncIterator[bytes], step: Step) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self.fetched_bytes += len(piece)
            step.advance(len(piece))
            yield piece
