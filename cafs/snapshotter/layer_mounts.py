"""The lazy layers that are mounted: each once, however many images and containers share it.

Owned by ``program``; ``snapshotter`` asks for layers. A layer is a file of the mount server's FUSE mount,
mounted with the kernel's EROFS at ``ROOT/m/NUMBER``. Steps of adding one, so that a kill between any two
leaves nothing that a start cannot tidy up: the mount server has it; the database says so; it is mounted; a
snapshot uses it. Removing goes the other way round. The mount server may be replaced at any time: as long
as its mount is the same, nothing is to be done; when it is another one (its device tells), what lay on the
old one is dead, and is mounted anew.

Runs in the loop; mount(2) and the database in threads. Work on one layer is shared by all who want it, and a
caller that is cancelled does not cancel it for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path, PurePosixPath

from cafs.control_socket.protocol import AddedLayer, AddLayer, RefusedError
from cafs.core.digest import Digest
from cafs.core.log_fields import about
from cafs.errors import CafsError, ProtocolError, UnavailableError
from cafs.fuse.device import is_mount_point
from cafs.fuse.erofs_mount import READAHEAD_KB, mount_erofs, set_readahead
from cafs.fuse.syscalls import UnmountFlag, device_of, unmount
from cafs.snapshotter.ledger import Ledger
from cafs.snapshotter.mount_server import MountServer
from cafs.snapshotter.mounts import Paths
from cafs.snapshotter.snapshot import Layer, LayerSource
from cafs.snapshotter.workers import Workers

log = logging.getLogger(__name__)

MOUNT_PATIENCE_S = 30.0
"""For one mount(2), which reads a superblock through FUSE."""
START_S = 60.0
"""So long a layer is taken to serve starts, of which its bytes come over a link; later it is read as any."""
_RESTORES_AT_ONCE = 16
"""After a reboot there may be hundreds."""


class MountedLayers:
    """Which layers are mounted, and on which mount of the mount server."""

    def __init__(self, fuse: Path) -> None:
        """
        Args:
            fuse: Where the mount server mounts FUSE.
        """
        self._fuse = fuse
        self._devices: dict[int, int] = {}

    def missing(self, numbers: Iterable[int]) -> frozenset[int]:
        """Which of these are not mounted, or on a mount that is gone. Does not block; any thread."""
        wanted = frozenset(numbers)
        if not wanted:
            return wanted
        device = self.current_device()
        return frozenset(number for number in wanted if self._devices.get(number) != device)

    def __len__(self) -> int:
        return len(self._devices)

    def current_device(self) -> int | None:
        """Of the mount that is there now."""
        try:
            return device_of(self._fuse)
        except OSError:
            return None

    def file(self, layer: Layer) -> Path:
        """What is to be mounted."""
        return self._fuse / layer.path

    def file_of(self, name: str) -> Path:
        """The same for a layer of which only the mount server knows."""
        return self._fuse / "layers" / name

    def add(self, number: int, device: int) -> None:
        """It is mounted."""
        self._devices[number] = device

    def remove(self, number: int) -> None:
        """It is not mounted any more."""
        self._devices.pop(number, None)


class LayerMounts:
    """Mounts layers, keeps them mounted, unmounts them."""

    def __init__(
        self,
        mounted: MountedLayers,
        ledger: Ledger,
        workers: Workers,
        server: MountServer,
        paths: Paths,
    ) -> None:
        """
        Args:
            mounted: Kept up to date here.
            ledger: Called in its thread only.
            workers: The threads.
            server: The mount server.
            paths: Below the snapshotter's root.
        """
        self._ledger = ledger
        self._workers = workers
        self._server = server
        self._paths = paths
        self._mounted = mounted
        self._mounting: dict[int, asyncio.Task[None]] = {}
        self._restoring: dict[int, asyncio.Task[None]] = {}
        self._restores = asyncio.Semaphore(_RESTORES_AT_ONCE)
        self._adding = 0
        self._may_add = asyncio.Event()
        self._may_add.set()
        self._releasing = asyncio.Lock()

    @asynccontextmanager
    async def adding(self) -> AsyncIterator[None]:
        """While somebody is in here, no layer is released: one that was just added has no user yet."""
        while not self._may_add.is_set():
            await self._may_add.wait()
        self._adding += 1
        try:
            yield
        finally:
            self._adding -= 1

    async def add(self, source: LayerSource) -> Layer:
        """Have a layer, mounted. To be called within ``adding``.

        Raises:
            CafsError: the mount server refuses or is away, or the mount fails.
        """
        added = await self._ask(source)
        layer = await self._workers.ledger(self._ledger.put_layer, added.name, added.path, source)
        await self._mount(layer)
        return layer

    async def _ask(self, source: LayerSource) -> AddedLayer:
        wanted = AddLayer(source.image, Digest(source.manifest), Digest(source.digest), Digest(source.chain))
        added = await self._server.add_layer(wanted)
        path = PurePosixPath(added.path)
        if path.is_absolute() or ".." in path.parts:
            raise ProtocolError(f"the mount server names a layer's file {added.path!r}")
        return added

    async def _mount(self, layer: Layer) -> None:
        if not self._mounted.missing([layer.number]):
            return
        task = self._mounting.get(layer.number)
        if task is None:
            task = asyncio.create_task(self._mount_now(layer))
            self._mounting[layer.number] = task
            task.add_done_callback(lambda _task: self._mounting.pop(layer.number))
        try:
            async with asyncio.timeout(MOUNT_PATIENCE_S):
                await asyncio.shield(task)
        except TimeoutError as e:
            raise UnavailableError(
                f"layer {layer.source.digest} could not be mounted within {MOUNT_PATIENCE_S:g} s:"
                " the mount server does not answer reads, see its log"
            ) from e

    async def _mount_now(self, layer: Layer) -> None:
        device = self._mounted.current_device()
        if device is None:
            raise UnavailableError("the mount server's FUSE mount is not there: is cafs mountd running?")
        file, point = self._mounted.file(layer), self._paths.mount_point(layer.number)
        # Before the old mount is gone: then its device's number may come again.
        self._mounted.remove(layer.number)
        # And that before the new device is written down: killed in between, the next start would take the old
        # mount for one on the new device, and keep it.
        with _translated(layer):
            await self._workers.mounts(_clear_mount, point)
        await self._workers.ledger(self._ledger.set_device, layer.number, device)
        with _translated(layer):
            devices = await self._workers.mounts(lambda: mount_erofs(file, point, cold=True))
        self._mounted.add(layer.number, device)
        # In the loop: it sets a number in the kernel, which waits for nothing.
        asyncio.get_running_loop().call_later(START_S, set_readahead, devices, READAHEAD_KB)

    async def restore(self, numbers: Iterable[int]) -> None:
        """Mount layers that are not mounted, or not any more.

        Raises:
            UnavailableError: one of them cannot be; the message says why.
        """
        results = await asyncio.gather(*map(self._restore, sorted(numbers)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _restore(self, number: int) -> None:
        task = self._restoring.get(number)
        if task is None:
            task = asyncio.create_task(self._restore_now(number))
            self._restoring[number] = task
            task.add_done_callback(lambda _task: self._restoring.pop(number))
        await asyncio.shield(task)

    async def _restore_now(self, number: int) -> None:
        layer = await self._workers.ledger(self._ledger.layer, number)
        async with self.adding(), self._restores:
            try:
                added = await self._ask(layer.source)
                if added.name != layer.name:
                    log.info("layer converted anew %s", _about(layer.source))
                    number = await self._workers.ledger(
                        self._ledger.replace_layer, number, added.name, added.path
                    )
                    layer = await self._workers.ledger(self._ledger.layer, number)
                await self._mount(layer)
            except (CafsError, OSError) as e:
                what = f"layer {layer.source.digest} of {layer.source.image} is not mounted"
                hint = " (convert the image again, or remove and pull it)" if _is_for_good(e) else ""
                raise UnavailableError(f"{what}: {e}{hint}") from e

    async def adopt(self) -> frozenset[int]:
        """At start: take over what is mounted already, unmount what nobody knows.

        Returns:
            Layers that have to be mounted.
        """
        layers = {layer.number: layer for layer in await self._workers.ledger(self._ledger.used_layers)}
        device = self._mounted.current_device()
        for point in await self._workers.mounts(lambda: sorted(self._paths.mount_points.iterdir())):
            number = int(point.name) if point.name.isdecimal() else None
            layer = layers.get(number) if number is not None else None
            if layer is None:
                await self._workers.mounts(_remove_mount, point)
            elif layer.device == device and is_mount_point(point):
                self._mounted.add(layer.number, device)
        return self._mounted.missing(layers)

    async def needed(self) -> frozenset[int]:
        """Layers that snapshots use and that are not mounted."""
        layers = await self._workers.ledger(self._ledger.used_layers)
        return self._mounted.missing(layer.number for layer in layers)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[bool]:
        """Keep layers from being added. False: one is being added right now."""
        async with self._releasing:
            self._may_add.clear()
            try:
                yield not self._adding
            finally:
                self._may_add.set()

    async def release_unused(self) -> None:
        """Unmount the layers that no snapshot has, and tell the mount server.

        While layers are being added nothing is done: the next Cleanup finds them.
        """
        async with self._alone() as alone:
            for layer in await self._workers.ledger(self._ledger.unused_layers) if alone else ():
                await self._release(layer)

    async def _release(self, layer: Layer) -> None:
        try:
            await self._workers.mounts(_remove_mount, self._paths.mount_point(layer.number))
            self._mounted.remove(layer.number)
            await self._let_server_forget(layer.name, self._mounted.file(layer))
        except (CafsError, OSError) as e:
            log.warning("cannot let go of a layer yet: %s %s", e, _about(layer.source))
            return
        await self._workers.ledger(self._ledger.forget_layer, layer.number)

    async def forget_strangers(self) -> None:
        """Tell the mount server to drop the layers that this snapshotter does not know.

        Raises:
            CafsError: it is away.
        """
        async with self._alone() as alone:
            known = {layer.name for layer in await self._workers.ledger(self._ledger.layers)}
            for shown in await self._server.layers() if alone else ():
                if shown["name"] not in known:
                    await self._let_server_forget(shown["name"], self._mounted.file_of(shown["name"]))

    async def _let_server_forget(self, name: str, file: Path) -> None:
        await self._server.remove_layer(name)
        await self._workers.mounts(_let_kernel_forget, file)


def _about(source: LayerSource) -> str:
    return about(image=source.image, layer=source.digest)


def _is_for_good(error: Exception) -> bool:
    return isinstance(error, RefusedError) and error.reason in {"not_converted", "invalid", "untrusted"}


@contextmanager
def _translated(layer: Layer) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UnavailableError(f"cannot mount layer {layer.source.digest}: {e.strerror}") from e


def _clear_mount(point: Path) -> None:
    point.mkdir(exist_ok=True)
    while is_mount_point(point):
        unmount(point, UnmountFlag.DETACH)


def _let_kernel_forget(file: Path) -> None:
    """The kernel keeps the inode of a name that was looked up once until it hears that the name is gone: ask.
    Until then the mount server keeps the layer, for somebody may still read it."""
    with contextlib.suppress(OSError):
        file.stat()


def _remove_mount(point: Path) -> None:
    while is_mount_point(point):
        unmount(point, UnmountFlag.DETACH)
    with contextlib.suppress(FileNotFoundError):
        point.rmdir()
