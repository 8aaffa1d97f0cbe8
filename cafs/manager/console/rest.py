"""REST, asked from within this process as the person at a page: its token, its address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.types import ASGIApp

from cafs.errors import RemoteError
from cafs.manager.http.paths import API

_PATIENCE_S = 30.0


class RefusedError(RemoteError):
    """REST said no: a problem document."""

    def __init__(self, problem: Mapping[str, Any], status: int, retry_after_s: int) -> None:
        """``problem``: of RFC 9457, or empty."""
        super().__init__(str(problem.get("detail", f"the manager answered {status}")))
        self.status = status
        self.kind = str(problem.get("type", "")).rpartition(":")[2]
        self.wrong = {str(row["field"]): str(row["message"]) for row in problem.get("errors", [])}
        """What is wrong with which field."""
        self.differs: dict[str, dict[str, Any]] = dict(problem.get("differs", {}))
        """Of a conflict: of each path what it ``is`` and what was ``sent``."""
        self.etag = str(problem.get("etag", ""))
        self.wait_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What REST said."""

    document: Any
    etag: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Of one page that somebody has open."""

    app: ASGIApp
    token: str
    """Empty: nobody is signed in."""
    address: str
    """Where whoever asks is connected from."""
    _client: httpx2.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        """Nothing of it needs to be closed: no connection is made."""
        transport = httpx2.ASGITransport(app=self.app, client=(self.address, 0))
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        client = httpx2.AsyncClient(
            transport=transport,
            base_url=f"http://manager{API}",
            headers=headers,
            timeout=_PATIENCE_S,
            trust_env=False,
        )
        object.__setattr__(self, "_client", client)

    async def get(self, path: str, **query: Any) -> Any:
        """A document; fields of ``query`` that are None are left out.

        Raises:
            RefusedError: REST says no.
        """
        return (await self.ask("GET", path, **query)).document

    async def ask(
        self, method: str, path: str, body: Any = None, *, etag: str | None = None, **query: Any
    ) -> Answer:
        """Any request.

        Args:
            method: Of HTTP.
            path: Below ``/api/v1``.
            body: Sent as JSON, if it is not None.
            etag: What a change rests on.
            query: Of the address.

        Raises:
            RefusedError: REST says no.
        """
        told = {name: value for name, value in query.items() if value is not None}
        headers = {"If-Match": etag} if etag is not None else {}
        answer = await self._client.request(method, path, params=told, json=body, headers=headers)
        document = answer.json() if answer.content else None
        if not answer.is_success:
            wait = answer.headers.get("retry-after", "0")
            raise RefusedError(document or {}, answer.status_code, int(wait) if wait.isdecimal() else 0)
        return Answer(document, answer.headers.get("etag", ""))
