"""``cafs peer`` as a process whose configuration changes under it: each limit holds from SIGHUP on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from cafs.cli.units import parse_size
from cafs.core.settings import Settings
from cafs.p2p.live_limits import limits_of
from tests.support.http import Answered, ask
from tests.support.patience import PATIENCE_S
from tests.support.peers import Peer, swarm
from tests.support.ports import chosen_port
from tests.support.proxying import Origin, serve_origin

MIB = 1 << 20
BODY = os.urandom(10 * MIB)
HELD_BACK_S = 0.2
"""For something that a limit holds back for hours."""
OTHERS: dict[str, Any] = {
    "concurrent_uploads": 7, "uploads_per_client": 3, "concurrent_children": 5, "concurrent_pieces": 9,
    "upload_rate_bytes": 100 * MIB, "download_rate_bytes": "101MiB", "source_rate_bytes": "102MiB",
    "task_concurrent_pieces": 4, "task_upload_rate_bytes": "103MiB", "task_download_rate_bytes": "104MiB",
    "task_source_rate_bytes": "105MiB", "task_quota_bytes": "1GiB", "store_quota_bytes": "2GiB",
}  # fmt: skip
"""All limits, each otherwise than by default."""


@dataclass
class Limited:
    """A peer, and the file that says its limits."""

    peer: Peer
    file: Path
    port: int

    async def status(self) -> Any:
        return json.loads((await ask(self.peer.socket, "GET", "/v1/status")).body)

    async def limits(self) -> Any:
        return (await self.status())["limits"]

    def log(self) -> list[str]:
        return self.peer.log.read_text().splitlines()

    async def say(self, text: str, heard: str) -> list[str]:
        """Write the file, send SIGHUP, and wait for what the log says to it."""
        before = len(self.log())
        self.file.write_text(text)
        self.peer.process.send_signal(signal.SIGHUP)
        await until(lambda: any(heard in line for line in self.log()[before:]), self.peer)
        return self.log()[before:]

    async def set(self, **settings: Any) -> None:
        """Other limits from now on, and nothing else in the file."""
        await self.say("".join(f"{n} = {json.dumps(v)}\n" for n, v in settings.items()), "was read: ")

    async def get(self, url: str) -> Answered:
        """A download on this host."""
        body = json.dumps({"url": url}).encode()
        return await ask(self.peer.socket, "POST", "/v1/download", body)

    async def task(self, url: str) -> str | None:
        """Its id, when it is held."""
        tasks = json.loads((await ask(self.peer.socket, "GET", "/v1/tasks")).body)["tasks"]
        return next((task["id"] for task in tasks if task["url"] == url), None)

    async def piece(self, task: str | None) -> Answered:
        """As another host asks for it."""
        return await ask(self.port, "GET", f"/v1/tasks/{task}/pieces/0")


@asynccontextmanager
async def limited(folder: Path) -> AsyncIterator[Limited]:
    file = folder / "limits.toml"
    file.write_text("")
    port = chosen_port()
    with swarm(folder) as made:
        peer = made.peer("p", f"--config={file}", listen=f"127.0.0.1:{port}")
        yield Limited(peer, file, port)


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serve_origin() as served:
        for name in "abcd":
            served.page(f"/{name}", BODY, etag=f'"{name}"', cache_control="max-age=600")
        yield served


async def until(holds: Callable[[], bool], peer: Peer) -> None:
    try:
        with trio.fail_after(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 - another process cannot be waited for
                await trio.sleep(0.02)
    except trio.TooSlowError:
        raise AssertionError(peer.log.read_text()) from None


async def held_back(limited: Limited, call: Callable[[], Any], **lifted: Any) -> Answered:
    """What a call answers that ends only once the limits are lifted."""
    answers: list[Answered] = []

    async def run() -> None:
        answers.append(await call())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(HELD_BACK_S)
        assert not answers
        await limited.set(**lifted)
    return answers[0]


async def test_each_limit_holds_from_sighup_on(short_tmp_path: Path, origin: Origin) -> None:
    async with limited(short_tmp_path) as host:
        await host.set(**OTHERS)
        wanted = {name: parse_size(str(value)) for name, value in OTHERS.items()}
        given = limits_of(Settings(cache_dir=short_tmp_path, run_dir=short_tmp_path, **wanted))
        assert await host.limits() == asdict(given)

        for name, limit in (("a", "source_rate_bytes"), ("b", "task_source_rate_bytes")):
            await host.set(**{limit: 1})
            url = f"{origin.url}/{name}"
            assert (await held_back(host, lambda url=url: host.get(url))).body == BODY
        task = await host.task(f"{origin.url}/b")
        for limit in ("upload_rate_bytes", "task_upload_rate_bytes"):
            await host.set(**{limit: 1})
            assert (await held_back(host, lambda: host.piece(task))).body == BODY[:MIB]
        await host.set(concurrent_uploads=0)
        assert (await host.piece(task)).status == 503
        await host.set()
        assert (await host.piece(task)).status == 200

        await host.set(task_quota_bytes="16MiB", store_quota_bytes="16MiB")
        with trio.fail_after(PATIENCE_S):
            while await host.task(f"{origin.url}/a") is not None:  # noqa: ASYNC110 - as above
                await trio.sleep(0.02)  # it is the one that was used less lately
        assert await host.task(f"{origin.url}/b") == task
        await until(lambda: any("the chunk store may hold 16 MiB" in line for line in host.log()), host.peer)


async def test_a_command_slows_its_own_download_only(short_tmp_path: Path, origin: Origin) -> None:
    url = f"{origin.url}/a"
    async with limited(short_tmp_path) as host:
        slow = host.peer.getting(url, short_tmp_path / "out", "--rate-limit=1KiB")
        try:
            await until(lambda: bool(origin.asked), host.peer)
            await trio.sleep(HELD_BACK_S)
            assert (await host.status())["downloads"]["source_bytes"] == 0
            assert (await host.get(url)).body == BODY
            assert slow.poll() is None
        finally:
            slow.kill()
            slow.communicate()


async def test_a_configuration_that_cannot_be_leaves_the_limits(short_tmp_path: Path, origin: Origin) -> None:
    async with limited(short_tmp_path) as host:
        await host.set(concurrent_pieces=9)
        limits = await host.limits()
        for text, why in (
            ("concurrent_pieces = 0\n", "line 1: concurrent_pieces must be at least 1, not 0"),
            ("upload_rate_bytes = 5\nconcurrent_pieces = 'many'\n", "line 2: concurrent_pieces must be a"),
            ("nonsense = 1\n", "unknown setting 'nonsense'"),
            ("concurrent_pieces = [", "not valid TOML"),
        ):
            said = await host.say(text, "the limits stay as they are")
            assert len(said) == 1
            assert why in said[0]
            assert str(host.file) in said[0]
            assert await host.limits() == limits
        host.file.unlink()
        host.peer.process.send_signal(signal.SIGHUP)
        await until(lambda: "No such file" in host.log()[-1], host.peer)
        assert await host.limits() == limits
        assert (await host.get(f"{origin.url}/a")).body == BODY
