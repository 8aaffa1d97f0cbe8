"""What requests are answered from: one object, made once per program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from cafs.manager.database import Database
from cafs.manager.jobs.sums import JobSums
from cafs.manager.oidc.client import ProviderClient
from cafs.manager.schedulers import Schedulers
from cafs.manager.tally import Tally
from cafs.manager.users.passwords import Passwords
from cafs.manager.users.throttle import Throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """See the module."""

    database: Database
    tally: Tally
    site: str
    """Where people reach REST, for links: ``https://HOST[:PORT]``."""
    passwords: Passwords
    changed: Callable[[], None]
    """Called after clusters were changed, so that services hear of it at once. From any thread."""
    jobs_changed: Callable[[], None]
    """Called after jobs were changed, the same way."""
    schedulers: Schedulers
    provider: ProviderClient | None = None
    """At which people sign in, if there is one."""
    job_sums: JobSums = field(default_factory=JobSums)
    throttle: Throttle = field(default_factory=Throttle)


def link_to(site: str, secret: str) -> str:
    """The address of the page at which a link's secret is used."""
    return f"{site}/setup?link={secret}"


# A coroutine, as are all dependencies that wait for nothing: others cost a turn in a thread each.
async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


Here = Annotated[Parts, Depends(_parts)]
"""Of a route that needs them."""


def client_address(request: Request) -> str:
    """Who is connected. What a header says of that may be made up, and is not looked at."""
    return request.client.host if request.client is not None else ""
