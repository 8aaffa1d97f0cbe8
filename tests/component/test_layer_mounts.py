"""What the snapshotter takes over of its mounts after it was killed between two steps, and keeps up."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from cafs.control_socket.protocol import AddedLayer, AddLayer
from cafs.fuse.syscalls import MountFlag, device_of, mount
from cafs.snapshotter.layer_mounts import LayerMounts, MountedLayers
from cafs.snapshotter.ledger import Ledger
from cafs.snapshotter.mount_server import MountServer
from cafs.snapshotter.opening import open_metadata, prepare_root
from cafs.snapshotter.program import keep_mounted
from cafs.snapshotter.reserve import Reserve
from cafs.snapshotter.snapshot import LayerSource
from cafs.snapshotter.workers import Workers
from tests.support.fake_mountd import digest_of
from tests.support.logs import ExpectedLogs
from tests.support.mounts import unmounted_after

SOURCE = LayerSource("registry.test/app:v1", digest_of("manifest"), digest_of("layer"), digest_of("chain"))
NAME = "ab" * 32


class AnyServer:
    """Has every layer."""

    async def add_layer(self, _wanted: AddLayer) -> AddedLayer:
        return AddedLayer(NAME, f"layers/{NAME}", 4096, 0, hides=False)


class KilledWorkers(Workers):
    """The process ends after so many steps outside the database."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.dead = asyncio.Event()
        self._left = steps

    async def mounts(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            self.dead.set()
            await asyncio.Event().wait()
        return await super().mounts(function, *args, **kwargs)


def test_a_dead_mount_is_not_taken_over_for_one_that_was_about_to_be_made(tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.mkdir()
    paths = prepare_root(tmp_path / "s")
    mounted = MountedLayers(fuse)
    metadata = open_metadata(paths)
    ledger = Ledger(metadata, paths, time.time_ns, mounted.missing, Reserve(paths.reserve))
    server = cast("MountServer", AnyServer())
    layer = ledger.put_layer(NAME, f"layers/{NAME}", SOURCE)
    ledger.set_device(layer.number, device_of(fuse) + 1)  # of a mount server that is gone
    ledger.add_lazy(SOURCE.chain, "", {}, layer)
    point = paths.mount_point(layer.number)
    point.mkdir()

    async def killed_while_mounting(steps: int) -> None:
        workers = KilledWorkers(steps)
        adding = asyncio.create_task(LayerMounts(mounted, ledger, workers, server, paths).add(SOURCE))
        await workers.dead.wait()
        adding.cancel()
        workers.close()

    async def adopted() -> frozenset[int]:
        workers = Workers()
        try:
            return await LayerMounts(MountedLayers(fuse), ledger, workers, server, paths).adopt()
        finally:
            workers.close()

    with unmounted_after(point):
        for steps in range(2):
            mount("dead", point, "tmpfs", MountFlag(0), "")
            asyncio.run(killed_while_mounting(steps))
            assert asyncio.run(adopted()) == {layer.number}
    metadata.close()


class Troubled:
    """Layers in a database that cannot be read for a while."""

    def __init__(self) -> None:
        self.troubles = 3
        self.restored = asyncio.Event()

    async def needed(self) -> frozenset[int]:
        if self.troubles:
            self.troubles -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return frozenset() if self.restored.is_set() else frozenset({1})

    async def restore(self, _numbers: frozenset[int]) -> None:
        self.restored.set()

    async def forget_strangers(self) -> None:
        pass


def test_layers_are_mounted_again_after_a_trouble_of_the_database(expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("unforeseen")

    async def scenario() -> None:
        layers = Troubled()
        keeping = asyncio.create_task(keep_mounted(cast("LayerMounts", layers), pause_s=0))
        ended = asyncio.create_task(layers.restored.wait())
        await asyncio.wait([keeping, ended], return_when=asyncio.FIRST_COMPLETED)
        assert not keeping.done()
        keeping.cancel()

    asyncio.run(scenario())
