"""A mount server of a test's own, images in a registry for it, and its layers under kernel EROFS."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from cafs.control_socket.blocking import BlockingClient
from cafs.control_socket.protocol import AddedLayer, AddLayer
from cafs.core.digest import Digest, sha256_digest
from cafs.core.entry import Meta
from cafs.core.settings import Settings
from cafs.fuse.erofs_mount import mount_image_file
from cafs.fuse.syscalls import UnmountFlag, unmount
from cafs.oci.registry.repository import RegistryRepository
from tests.support.layered import Layer, pretended_tar, push_layers
from tests.support.mounts import ROOT, unmounted_after
from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command, run_cafs
from tests.support.systemd import FakeSystemd


@dataclass(frozen=True)
class PushedImage:
    """A converted image in a registry."""

    reference: str
    manifest: Digest
    sums: tuple[dict[str, str], ...]
    """Of each layer, sha256 by path."""

    def layer(self, number: int) -> AddLayer:
        """What to ask the mount server for."""
        return AddLayer(self.reference, self.manifest, sha256_digest(pretended_tar(number)))


def push_image(
    host: str, folder: Path, *, repository: str, layers: int = 1, seed: int = 0, files: int = 30
) -> PushedImage:
    """Make an image of random files and push it, converted."""
    rng, sums = random.Random(seed), []
    made = folder / f"{repository.replace('/', '-')}-{seed}"
    made.mkdir()
    for number in range(layers):
        layer, known = Layer(), {}
        for i in range(files):
            content = rng.randbytes(rng.choice([500, 5_000, 60_000, 200_000]))
            layer.file(b"f%d" % i, Meta(0o100644), content)
            known[f"f{i}"] = hashlib.sha256(content).hexdigest()
        layer.write(made, number)
        sums.append(known)
    manifest = trio.run(_push, host, repository, made)
    return PushedImage(f"{host}/{repository}:v1", manifest, tuple(sums))


async def _push(host: str, repository: str, folder: Path) -> Digest:
    settings = Settings(cache_dir=folder, run_dir=folder)
    target = RegistryRepository(host, repository, settings)
    try:
        return (await push_layers(target, folder)).digest
    finally:
        await target.aclose()


class MountServer:
    """A running ``cafs mountd``."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.run = path / "run"
        self.process = process
        self.client = BlockingClient(self.run / "mountd.sock", away_patience_s=20)

    @property
    def log(self) -> str:
        return (self.path / "log").read_text()

    def pid(self, which: str) -> int:
        """Of the ``server`` or the ``supervisor``."""
        return int((self.run / f"{which}.pid").read_text())

    def file(self, added: AddedLayer) -> Path:
        return self.run / "fuse" / added.path

    def kill(self, which: str) -> None:
        """kill -9."""
        with suppress(ProcessLookupError):
            os.kill(self.pid(which), signal.SIGKILL)

    def wait_until_empty(self) -> None:
        """The kernel tells the server a moment after the last user of a removed layer has left."""
        while self.client.layers():
            pass

    def wait_for_layers(self, count: int) -> None:
        """Until so many are shown: an announcement is answered before it is carried out."""
        while len(self.client.layers()) != count:
            pass

    def stop(self, *flags: str, code: int = 0) -> str:
        """``cafs mountd --stop``."""
        return run_cafs("mountd", "--stop", *flags, "--run", self.run, code=code).err


@contextmanager
def mount_server(
    path: Path,
    *flags: str,
    systemd: FakeSystemd | None = None,
    watchdog_s: float | None = None,
    code: Path = ROOT,
) -> Iterator[MountServer]:
    """Start one with its state in ``path``; it is ended, forcibly if need be.

    Args:
        path: A folder with a short name.
        flags: For the command.
        systemd: Started by it.
        watchdog_s: It watches.
        code: The folder that CAFS is imported from.
    """
    with unmounted_after(path):
        server = start_mount_server(path, *flags, systemd=systemd, watchdog_s=watchdog_s, code=code)
        try:
            server.client.status()
            yield server
        except BaseException:
            sys.stderr.write(server.log)  # pytest shows it with the failure
            raise
        finally:
            run_cafs("mountd", "--stop", "--force", "--run", server.run)
            server.process.wait(PATIENCE_S)


def start_mount_server(
    path: Path,
    *flags: str,
    systemd: FakeSystemd | None = None,
    watchdog_s: float | None = None,
    code: Path = ROOT,
) -> MountServer:
    """The process only; with everything that ``systemd`` keeps."""
    command = cafs_command("mountd", "--run", path / "run", "--root", path / "cache", *flags)
    inherited: list[int] = []
    if systemd is not None and systemd.stored:
        command, inherited = systemd.handing_over(command)
    with (path / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=code,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
            env={
                **os.environ,
                "PYTHONPATH": str(code),
                **(systemd.environment(watchdog_s) if systemd else {}),
            },
        )
    return MountServer(path, process)


@contextmanager
def erofs(server: MountServer, added: AddedLayer, target: Path) -> Iterator[Path]:
    """The layer, mounted by the kernel."""
    target.mkdir()
    mount_image_file(server.file(added), target, trusted=True, cold=True)
    try:
        yield target
    finally:
        unmount(target, UnmountFlag.NONE)
        target.rmdir()


def sums_of(root: Path) -> dict[str, str]:
    """sha256 of every file below ``root``."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
