"""The manager's REST for commands: requests with a token, and problem documents as errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cafs.core.settings import Settings
from cafs.errors import (
    AuthError,
    CafsError,
    NotFoundError,
    RemoteError,
    StateError,
    UnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    import httpx2 as httpx

_API = "/api/v1"
_PATIENCE_S = 30.0
_KINDS: dict[int, type[CafsError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: StateError,
    422: UsageError,
    503: UnavailableError,
}


class ManagerRest:
    """A connection. Blocking."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, method: str, path: str, document: Any = None, *, changes: bool = False) -> Any:
        """The document of the answer.

        Args:
            method: Of HTTP.
            path: Below the version of REST, with its query.
            document: Sent as the body, if there is one.
            changes: It changes something that is there, whatever that is now.

        Raises:
            CafsError: the manager says no, or does not answer.
        """
        import httpx2 as httpx  # noqa: PLC0415 - loaded by now

        headers = {"If-Match": "*"} if changes else {}
        try:
            answer = self._client.request(method, _API + path, json=document, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise UnavailableError(f"the manager at {self._client.base_url} does not answer: {e}") from e
        try:
            told = answer.json() if answer.content else None
        except ValueError:
            raise RemoteError(
                f"{self._client.base_url} is no manager: it answered {answer.status_code}"
            ) from None
        if not answer.is_success:
            raise _KINDS.get(answer.status_code, RemoteError)(
                f"the manager: {_detail(told, answer.status_code)}"
            )
        return told


def _detail(problem: Any, status: int) -> str:
    return str(problem.get("detail", status)) if isinstance(problem, dict) else str(status)


@contextmanager
def manager_rest(settings: Settings) -> Iterator[ManagerRest]:
    """Ready to be asked.

    Raises:
        UsageError: there is no token, or a setting cannot be used.
    """
    import httpx2 as httpx  # noqa: PLC0415 - only commands that ask a manager pay for it

    if not settings.manager_token:
        raise UsageError(
            "manager_token is missing: make one (POST /me/tokens), give it by CAFS_MANAGER_TOKEN"
        )
    try:
        headers = {"Authorization": f"Bearer {settings.manager_token}"}
        verify = httpx.create_ssl_context(verify=settings.manager_ca) if settings.manager_ca else True
        client = httpx.Client(
            base_url=settings.manager_url.rstrip("/"), headers=headers, timeout=_PATIENCE_S, verify=verify
        )
    except (OSError, ValueError, httpx.InvalidURL) as e:
        raise UsageError(
            f"manager_url, manager_token or manager_ca cannot be used: {type(e).__name__}"
        ) from e
    with client:
        yield ManagerRest(client)
