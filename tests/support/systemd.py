"""Plays systemd to a service: hears its notifications, keeps its descriptors, starts it again with them.

Run as ``python -m tests.support.systemd NAMES DESCRIPTORS COMMAND...`` this module is the moment between
systemd's fork and the service: it puts the descriptors where sd_listen_fds(3) wants them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import ROOT
from tests.support.patience import PATIENCE_S

_FIRST = 3
_FAR = 200


class FakeSystemd:
    """The other end of one service's notifications."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self._changed = threading.Condition()
        self._heard: list[str] = []
        self.stored: dict[str, int] = {}
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """For the service."""
        watchdog = {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))} if watchdog_s else {}
        return {"NOTIFY_SOCKET": str(self._path), **watchdog}

    def wait_for(self, line: str, count: int = 1, timeout_s: float = 20) -> None:
        """Until the service has said this so often since the last ``forget``."""
        with self._changed:
            heard = self._changed.wait_for(lambda: self._heard.count(line) >= count, timeout_s)
        assert heard, (line, self._heard)

    def heard(self, line: str) -> int:
        """How often it has said this."""
        with self._changed:
            return self._heard.count(line)

    def forget(self) -> None:
        """What was said so far, heard already or not."""
        mark = f"FORGET={os.urandom(4).hex()}"
        self._say(mark.encode())
        with self._changed:
            assert self._changed.wait_for(lambda: mark in self._heard, 20)
            self._heard.clear()

    def handing_over(self, command: Sequence[str]) -> tuple[list[str], list[int]]:
        """The command that starts the service with everything stored, and what it must inherit."""
        names, numbers = ":".join(self.stored), ",".join(map(str, self.stored.values()))
        wrapper = [sys.executable, "-m", "tests.support.systemd", names, numbers, *command]
        return wrapper, list(self.stored.values())

    def started(self, command: Sequence[str], log: Path, code: Path = ROOT) -> subprocess.Popen[bytes]:
        """Start the service with everything stored, and wait until it is ready.

        Args:
            command: Its argument list.
            log: What it prints is appended here.
            code: The folder that CAFS is imported from.
        """
        self.forget()
        inherited: list[int] = []
        if self.stored:
            command, inherited = self.handing_over(command)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=code,
                env={**os.environ, "PYTHONPATH": f"{code}:{ROOT}", **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=inherited,
            )
        try:
            self.wait_for("READY=1", timeout_s=60)
        except AssertionError:
            process.kill()
            process.wait(PATIENCE_S)
            raise AssertionError(f"{command} is not ready:\n{log.read_text()[-3000:]}") from None
        return process

    def close(self) -> None:
        """Let go of everything stored, as systemd does when a service is stopped for good."""
        self._say(b"")
        self._thread.join()
        self._channel.close()
        for descriptor in self.stored.values():
            os.close(descriptor)

    def _say(self, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(message, str(self._path))

    def _listen(self) -> None:
        while True:
            message, descriptors, _flags, _address = socket.recv_fds(self._channel, 4096, 8)
            if not message:
                return
            lines = message.decode().splitlines()
            with self._changed:
                self._heard.extend(lines)
                name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "")
                if "FDSTORE=1" in lines:
                    self._store(name, descriptors)
                elif "FDSTOREREMOVE=1" in lines and name in self.stored:
                    os.close(self.stored.pop(name))
                self._changed.notify_all()

    def _store(self, name: str, descriptors: Sequence[int]) -> None:
        (descriptor,) = descriptors
        if name in self.stored:
            os.close(self.stored[name])
        self.stored[name] = descriptor


@contextmanager
def fake_systemd(path: Path) -> Iterator[FakeSystemd]:
    """One for a test."""
    systemd = FakeSystemd(path)
    try:
        yield systemd
    finally:
        systemd.close()


def main(names: str, numbers: str, command: Sequence[str]) -> None:
    descriptors = [int(number) for number in numbers.split(",")]
    for position, descriptor in enumerate(descriptors):  # out of the way first
        os.dup2(descriptor, _FAR + position, inheritable=False)
        os.close(descriptor)
    for position in range(len(descriptors)):
        os.dup2(_FAR + position, _FIRST + position)
    listening = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names}
    os.execve(command[0], list(command), {**os.environ, **listening})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
