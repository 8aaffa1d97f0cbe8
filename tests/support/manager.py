"""``cafs manager`` in this process, in a thread with a loop of its own, and a client of its REST."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from cafs.manager.database import parse_database
from cafs.manager.program import Options, Ports, served

_PATIENCE_S = 30


@dataclass
class Manager:
    """A running one."""

    options: Options
    ports: Ports
    loop: asyncio.AbstractEventLoop
    client: httpx2.Client

    def ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """One request."""
        return self.client.request(method, path, **arguments)


def options_for(folder: Path, address: str = "", **changes: Any) -> Options:
    """Free ports; SQLite in the folder, if no other address is given."""
    url = parse_database(address, folder / "manager" / "manager.db")
    options = Options(database=url, services=("127.0.0.1", 0), rest=("127.0.0.1", 0))
    return replace(options, **changes)


@contextmanager
def running_manager(options: Options) -> Iterator[Manager]:
    """While the context lasts; its own failures are raised here."""
    ready, failures = threading.Event(), []
    made: dict[str, Any] = {}

    async def serve() -> None:
        made["stop"] = asyncio.Event()
        made["loop"] = asyncio.get_running_loop()
        async with served(options) as ports:
            made["ports"] = ports
            ready.set()
            await made["stop"].wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as e:
            failures.append(e)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(_PATIENCE_S)
        if failures:
            raise failures[0]
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{made['ports'].rest}", timeout=_PATIENCE_S, trust_env=False
        ) as client:
            yield Manager(options, made["ports"], made["loop"], client)
    finally:
        if "loop" in made and not made["loop"].is_closed():
            made["loop"].call_soon_threadsafe(made["stop"].set)
        thread.join(_PATIENCE_S)
    if failures:
        raise failures[0]
