"""A supervised mount of layers made by ``tests.support.layered``, for either driver.

Run as ``python -m tests.support.image_server TARGET erofs|fuse DIRECTORY``: shows the layers in
DIRECTORY at TARGET. While ``DIRECTORY/away`` exists, every source fails. ``TARGET.pids`` gets the
process ids of the servers, newest last.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from cafs.fetch.limits import FetchLimits
from cafs.fetch.service import ChunkService
from cafs.fuse import supervisor
from cafs.fuse.device import DeviceOptions, may_mount, mount_device
from cafs.fuse.flat import FlatTree
from cafs.fuse.merged import MergedFileTree, MergedLayer
from cafs.fuse.merged_image import LayerData, MergedImage
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.session import Session
from cafs.fuse.tree import FileTree
from cafs.index.layer_index import LayerIndex
from cafs.index.merge_layers import write_merged
from cafs.index.merged_index import MergedIndex
from cafs.node.mount_state import EROFS_FILE
from tests.support.layered import FileSource


def open_indexes(directory: Path) -> list[LayerIndex]:
    count = len(list(directory.glob("*.index")))
    return [LayerIndex.open(directory / f"{number}.index") for number in range(count)]


def merged_image(directory: Path, layers: Sequence[MergedLayer]) -> MergedImage:
    """Made by the first server, opened by those after it."""
    path = directory / "merged"
    if not path.exists():
        with path.open("x+b") as file:
            write_merged(file.fileno(), [layer.index for layer in layers])
    parts = [LayerData(layer.image, layer.index.header.metadata_bytes) for layer in layers]
    return MergedImage(MergedIndex.open(path).metadata, parts)


async def serve(turn: supervisor.Turn, kind: str, directory: Path) -> None:
    supervisor.claim_unanswered(turn)
    limits = FetchLimits(memory_cache_bytes=4 << 20, read_deadline_s=0.5, retries=0)
    async with ChunkService(None, limits) as service:
        layers = []
        for number, index in enumerate(open_indexes(directory)):
            source = FileSource(directory / f"{number}.blob", (directory / "away").exists)
            name = f"sha256:{index.header.diff_id.hex()}"
            layers.append(MergedLayer(index, service.add_layer(index, [source], name)))
        tree: FileTree
        if kind == "erofs":
            tree = FlatTree([(EROFS_FILE, merged_image(directory, layers))])
        else:
            tree = MergedFileTree(layers)
        await Session(turn.descriptor, tree, turn.outstanding).run()


def main(target: Path, kind: str, directory: Path) -> int:
    descriptor = mount_device(target, DeviceOptions("test", allow_other=may_mount(), trusted=may_mount()))
    agreed = supervisor.answer_init(descriptor)
    first = supervisor.Turn(descriptor, Outstanding(), agreed.can_resend, takes_over=False)

    def run(turn: supervisor.Turn) -> int:
        trio.run(serve, turn, kind, directory)
        return supervisor.GONE

    def started(pid: int) -> None:
        with Path(f"{target}.pids").open("a") as pids:
            pids.write(f"{pid}\n")
        os.write(1, b"ready\n")

    return supervisor.Supervisor(first, run, orders={}, started=started, adopt=None).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
