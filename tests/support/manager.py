"""``cafs manager`` in this process, in a thread with a loop of its own, and a client of its REST."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from argon2 import PasswordHasher

from cafs.manager.database import parse_database
from cafs.manager.http.paths import API
from cafs.manager.program import Options, Ports, served
from cafs.manager.users.passwords import Passwords
from tests.support.patience import PATIENCE_S

PASSWORD = "correct horse battery"


@dataclass
class Manager:
    """A running one."""

    options: Options
    ports: Ports
    loop: asyncio.AbstractEventLoop
    client: httpx2.Client
    said: list[str]
    """What it told whoever started it."""

    def ask(self, method: str, path: str, token: str = "", **arguments: Any) -> httpx2.Response:
        """One request; with a token, below ``/api/v1``."""
        headers = dict(arguments.pop("headers", {}))
        if token:
            path, headers["Authorization"] = API + path, f"Bearer {token}"
        return self.client.request(method, path, headers=headers, **arguments)

    def call(self, method: str, path: str, token: str, code: int = 200, **arguments: Any) -> Any:
        """The same, with the status that must come; the document."""
        answer = self.ask(method, path, token, **arguments)
        assert answer.status_code == code, answer.text
        return answer.json() if answer.content else None

    @property
    def setup_link(self) -> str:
        """The secret in the link that it printed."""
        return next(found[1] for text in self.said if (found := re.search(r"setup\?link=(\S+)", text)))

    def administrator(self) -> str:
        """The token of the first administrator, ``root``, who is made by this."""
        document = {"link": self.setup_link, "name": "root", "password": PASSWORD}
        assert self.client.post(f"{API}/setup", json=document).status_code == 201
        return self.sign_in("root")

    def sign_in(self, name: str, password: str = PASSWORD) -> str:
        """A session's token."""
        answer = self.client.post(f"{API}/sessions", json={"name": name, "password": password})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def person(self, admin: str, name: str, **fields: Any) -> str:
        """The token of a new user, who has signed in."""
        made = self.call("POST", "/users", admin, 201, json={"name": name, **fields})
        secret = made["link"].partition("link=")[2]
        chosen = self.client.post(f"{API}/setup", json={"link": secret, "password": PASSWORD})
        assert chosen.status_code == 201, chosen.text
        return self.sign_in(name)


def options_for(folder: Path, address: str = "", **changes: Any) -> Options:
    """Free ports; SQLite in the folder, if no other address is given."""
    url = parse_database(address, folder / "manager" / "manager.db")
    cheap = Passwords(PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    options = Options(database=url, services=("127.0.0.1", 0), rest=("127.0.0.1", 0), passwords=cheap)
    return replace(options, **changes)


@contextmanager
def running_manager(options: Options) -> Iterator[Manager]:
    """While the context lasts; its own failures are raised here."""
    ready, failures = threading.Event(), []
    made: dict[str, Any] = {}
    said: list[str] = []
    options = replace(options, say=said.append)

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
        assert ready.wait(PATIENCE_S)
        if failures:
            raise failures[0]
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{made['ports'].rest}", timeout=PATIENCE_S, trust_env=False
        ) as client:
            yield Manager(options, made["ports"], made["loop"], client, said)
    finally:
        if "loop" in made and not made["loop"].is_closed():
            made["loop"].call_soon_threadsafe(made["stop"].set)
        thread.join(PATIENCE_S)
    if failures:
        raise failures[0]
