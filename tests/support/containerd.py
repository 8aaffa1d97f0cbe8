"""A real containerd (Debian's) with a root, state, sockets and configuration of its own, below one folder.

Nothing of it touches another containerd on the machine: shims and containers are found by this one's
socket path, runc keeps its state in the folder, and everything is ended by its own id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.mounts import mounts_below
from tests.support.notify import started
from tests.support.patience import PATIENCE_S

_NO_NEED = (
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
)
_CRI = "io.containerd.grpc.v1.cri"


@dataclass(frozen=True)
class CriSetup:
    """How containerd's CRI plugin is configured."""

    sandbox_image: str
    snapshotter: str = "cafs"


@dataclass
class Containerd:
    """A containerd that a test has for itself. Folder names must be short: unix sockets have 107 bytes."""

    folder: Path
    proxies: dict[str, Path] = field(default_factory=dict)
    """Snapshotters that are processes of their own: name and socket."""
    cri: CriSetup | None = None
    namespace: str = "default"
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Path:
        """Its socket."""
        return self.folder / "c.sock"

    @property
    def root(self) -> Path:
        """What outlives a reboot."""
        return self.folder / "root"

    @property
    def state(self) -> Path:
        """What does not."""
        return self.folder / "state"

    @property
    def pid(self) -> int:
        """The running daemon."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Containerd:
        """Start it and wait until it says that it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.toml"
        config.write_text(_toml(self._configuration()))
        self.process = started(["containerd", "--config", str(config)], self.log_path, self.folder / "notify")
        return self

    @property
    def log_path(self) -> Path:
        """What it has logged, over all its lives."""
        return self.folder / "log"

    def kill(self) -> None:
        """``kill -9`` the daemon; its containers go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process = None

    def stop(self) -> None:
        """End the daemon in order; its containers go on."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def ctr(self, *arguments: str | Path, code: int = 0, timeout_s: float = PATIENCE_S) -> str:
        """Run ``ctr`` against it; answers what it printed."""
        done = subprocess.run(
            self.ctr_command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        told = f"ctr {' '.join(map(str, arguments))}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, told
        return done.stdout if code == 0 else done.stderr

    def ctr_command(self, *arguments: str | Path) -> list[str]:
        """The argument list that runs ``ctr`` against it."""
        return ["ctr", "--address", str(self.address), "--namespace", self.namespace, *map(str, arguments)]

    def run(
        self,
        image: str,
        name: str,
        *command: str,
        snapshotter: str,
        options: Sequence[str] = (),
        code: int = 0,
    ) -> str:
        """``ctr run --rm``: answers what the container printed."""
        return self.ctr(
            "run", "--rm", *self._run_options(snapshotter), *options, image, name, *command, code=code
        )

    def run_detached(
        self, image: str, name: str, *command: str, snapshotter: str, options: Sequence[str] = ()
    ) -> None:
        """``ctr run --detach``: a container that goes on."""
        options = [*self._run_options(snapshotter), *options]
        self.ctr("run", "--detach", "--null-io", *options, image, name, *command)

    def _run_options(self, snapshotter: str) -> list[str]:
        fifos = self.folder / "fifo"
        fifos.mkdir(exist_ok=True)
        return [
            "--snapshotter",
            snapshotter,
            "--runc-root",
            str(self.folder / "runc"),
            "--fifo-dir",
            str(fifos),
        ]

    def exec(self, name: str, *command: str, code: int = 0) -> str:
        """``ctr task exec``: answers what the command printed."""
        process = f"exec-{os.urandom(4).hex()}"
        fifos = ["--fifo-dir", str(self.folder / "fifo")]
        return self.ctr("task", "exec", *fifos, "--exec-id", process, name, *command, code=code)

    def remove(self, *names: str) -> None:
        """Kill and delete containers."""
        for name in names:
            self.ctr("task", "delete", "--force", name)
            self.ctr("container", "delete", name)

    def collect_garbage(self) -> None:
        """Have containerd's garbage collection run to its end: deleting with ``sync`` waits for it."""
        lease = self.ctr("leases", "create").strip()
        self.ctr("leases", "delete", "--sync", lease)

    def merged_root(self, name: str) -> Path:
        """The root filesystem of a running container, as the host sees it."""
        return self.state / "io.containerd.runtime.v2.task" / self.namespace / name / "rootfs"

    def shims(self) -> list[int]:
        """Pids of the shims that work for this containerd."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    arguments = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"containerd-shim" in arguments[0] and os.fsencode(self.address) in arguments:
                    found.append(int(entry.name))
        return found

    def end_containers(self) -> None:
        """Kill all containers and their shims, behind containerd's back."""
        for file in self.state.glob("io.containerd.runtime.v2.task/*/*/init.pid"):
            _kill(int(file.read_text()))
        for pid in self.shims():
            _kill(pid)

    def clean_up(self) -> None:
        """End the daemon and whatever it has left: containers, shims, mounts."""
        self.stop()
        self.end_containers()
        for point in reversed(mounts_below(self.folder)):
            subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configuration(self) -> dict[str, object]:
        plugins: dict[str, object] = {
            "io.containerd.internal.v1.opt": {"path": str(self.folder / "opt")},
            "io.containerd.gc.v1.scheduler": {"startup_delay": "1ms"},
        }
        if self.cri is not None:
            plugins[_CRI] = self._cri_configuration(self.cri)
        return {
            "version": 2,
            "root": str(self.root),
            "state": str(self.state),
            "disabled_plugins": [*_NO_NEED, *([] if self.cri else [_CRI])],
            "grpc": {"address": str(self.address)},
            "ttrpc": {"address": str(self.address) + ".ttrpc"},
            "plugins": plugins,
            "proxy_plugins": {
                name: {"type": "snapshot", "address": str(path)} for name, path in self.proxies.items()
            },
        }

    def _cri_configuration(self, cri: CriSetup) -> dict[str, object]:
        return {
            "sandbox_image": cri.sandbox_image,
            "restrict_oom_score_adj": True,
            "stream_server_port": "0",
            "cni": {"bin_dir": str(self.folder / "cni"), "conf_dir": str(self.folder / "cni.d")},
            "containerd": {
                "snapshotter": cri.snapshotter,
                "disable_snapshot_annotations": False,
                "runtimes": {
                    "runc": {
                        "runtime_type": "io.containerd.runc.v2",
                        "options": {"Root": str(self.folder / "runc")},
                    }
                },
            },
            "registry": {"config_path": str(self.folder / "certs.d")},
        }


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _toml(table: dict[str, object], path: tuple[str, ...] = ()) -> str:
    """A table as TOML. JSON's strings, numbers and lists of strings are TOML's."""
    lines = [f"[{'.'.join(json.dumps(part) for part in path)}]"] if path else []
    lines += [
        f"{json.dumps(key)} = {json.dumps(value)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            lines.append(_toml(value, (*path, key)))
    return "\n".join(lines) + "\n"
