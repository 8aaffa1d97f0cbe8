"""Parts of ``cafs up``: notices with descriptors, lines of any kind, a terminal that is not read."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.daemon.service_manager import ServiceManager
from cafs.errors import StorageError
from cafs.up.lines import Lines, Printer
from cafs.up.notices import Notices
from cafs.up.spawn import spawn
from tests.support.patience import PATIENCE_S


async def test_descriptors_are_kept_replaced_and_given_back(tmp_path: Path, short_tmp_path: Path) -> None:
    with Notices(short_tmp_path / "n") as notices:
        service = ServiceManager({"NOTIFY_SOCKET": str(notices.path)})
        for text in ("first", "second"):
            (tmp_path / text).write_text(text)
            with (tmp_path / text).open("rb") as file:
                service.store({"kept": file.fileno(), text: file.fileno()})
        service.discard(["first", "never"])
        service.tell("STATUS=x", "READY=1")
        with trio.fail_after(PATIENCE_S):
            await notices.hear_ready()
        assert set(notices.kept) == {"kept", "second"}
        assert os.pread(notices.kept["kept"], 99, 0) == b"second"
        assert not os.get_inheritable(notices.kept["kept"])
        given = list(notices.kept.values())
    for number in given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    assert not notices.path.exists()


async def test_a_service_cannot_have_any_number_of_descriptors_kept(short_tmp_path: Path) -> None:
    with Notices(short_tmp_path / "n") as notices, socket.socket() as given:
        service = ServiceManager({"NOTIFY_SOCKET": str(notices.path)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notices.hear)
            for number in range(40):
                service.store({f"d{number}": given.fileno()})
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(notices.kept) == 32


def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot make"):
        Notices(tmp_path / "nowhere" / "n")


def _write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as end:
        end.write(data)


async def _lines(data: bytes) -> list[str]:
    found: list[str] = []
    read, write = os.pipe()
    lines = Lines(read, found.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lines.read_all)
        await trio.to_thread.run_sync(_write_all, write, data)
    lines.close()
    return found


async def test_lines_of_any_kind() -> None:
    assert await _lines(b"one\n\ntwo\xff\nwithout an end") == ["one", "two�", "without an end"]
    long = await _lines(b"x" * 300_000 + b"\ny\n")
    assert ("".join(long[:-1]), long[-1]) == ("x" * 300_000, "y")
    assert len(long) > 2  # nothing is gathered without a bound


async def test_a_terminal_that_is_not_read_holds_nobody_up() -> None:
    read, write = os.pipe()
    printer = Printer(write, 4, quiet=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printer.run)
        for number in range(10_000):
            printer.say("peer", f"cafs: WARNING: {number} " + "x" * 100)
            printer.say("peer", "cafs: INFO: not wanted")
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        got = b""
        nursery.start_soon(printer.end)
        while b"left out" not in got:
            await trio.lowlevel.wait_readable(read)
            got += os.read(read, 1 << 16)
        nursery.cancel_scope.cancel()
    os.close(read)
    os.close(write)
    assert got.startswith(b"peer \xe2\x94\x82 WARNING: 0 x")
    assert b"not wanted" not in got


def _spawned(command: list[str], handed_over: Mapping[str, int]) -> tuple[str, int]:
    read, write = os.pipe()
    pid = spawn(command, {"PATH": os.environ["PATH"]}, write, handed_over)
    os.close(write)
    with os.fdopen(read) as output:
        said = output.read()
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_service_is_started_with(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    script = "echo $LISTEN_FDNAMES $LISTEN_FDS $((LISTEN_PID == $$)); cat <&4; ps -o pgid= -p $$; echo $$"
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "kept").open("rb") as file:
        said, code = _spawned(["/bin/sh", "-c", script], {"a": theirs.fileno(), "b": file.fileno()})
    words = said.split()
    assert (words[:3], words[3].startswith("kept"), code) == (["a:b", "2", "1"], True, 0)
    assert words[-1] in words[-2]  # its group is its own


def test_a_program_that_is_not_there() -> None:
    assert _spawned(["/nowhere/x"], {}) == ("cafs: cannot run /nowhere/x: No such file or directory\n", 127)
