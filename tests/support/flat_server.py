"""A whole supervised FUSE mount of plain files, for tests of session, supervisor and takeover.

Run as ``python -m tests.support.flat_server TARGET RESEND FILE...``: mounts, prints ``ready`` and serves
each FILE as ``layers/<position>`` until unmounted. Every other read is answered from memory at once, the
others wait in a task, so both paths are used. ``TARGET.pids`` gets the process ids, newest last. While
the fifo ``TARGET.hold`` exists, reads are never answered; the first one says so by writing to it. While
``FILE.hangs`` exists, those of that file wait. While ``TARGET.fails`` exists, no server can begin.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from cafs.fuse import refusing, supervisor
from cafs.fuse.device import DeviceOptions, mount_device
from cafs.fuse.flat import FlatTree
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.session import Session


class PlainFile:
    """A virtual image that is a file."""

    def __init__(self, path: Path, hold: Path) -> None:
        self.about = f"file={path}"
        self._hold = hold
        self._hangs = path.with_name(f"{path.name}.hangs")
        self._content = path.read_bytes()
        self._reads = 0

    @property
    def virtual_bytes(self) -> int:
        return len(self._content)

    def try_read(self, offset: int, size: int) -> Sequence[bytes] | None:
        self._reads += 1
        waits = self._reads % 2 or self._hold.exists() or self._hangs.exists()
        return None if waits else [self._content[offset : offset + size]]

    async def read(self, offset: int, size: int) -> Sequence[bytes]:
        if self._hold.exists():
            self._hold.write_bytes(b"a read is held\n")
            await trio.sleep_forever()
        while self._hangs.exists():  # noqa: ASYNC110 - of a file there is no event
            await trio.sleep(0.1)
        await trio.lowlevel.checkpoint()
        return [self._content[offset : offset + size // 2], self._content[offset + size // 2 : offset + size]]


def main(target: Path, resend: bool, files: Sequence[Path]) -> int:
    descriptor = mount_device(target, DeviceOptions("test"))
    agreed = supervisor.answer_init(descriptor, allow_resend=resend)
    turn = supervisor.Turn(descriptor, Outstanding(), agreed.can_resend, takes_over=False)

    refusing.HOPELESS_S = 1.0
    fails = Path(f"{target}.fails")

    def serve(turn: supervisor.Turn) -> int:
        if fails.exists():
            return 1
        supervisor.claim_unanswered(turn)
        tree = FlatTree([(str(i), PlainFile(path, Path(f"{target}.hold"))) for i, path in enumerate(files)])
        trio.run(Session(turn.descriptor, tree, turn.outstanding).run)
        return supervisor.GONE

    def started(pid: int) -> None:
        with Path(f"{target}.pids").open("a") as pids:
            pids.write(f"{pid}\n")
        if not turn.takes_over:
            os.write(1, b"ready\n")

    keeper = supervisor.Supervisor(turn, serve, orders={}, started=started, adopt=None)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] == "resend", [Path(name) for name in sys.argv[3:]]))
