"""Who asks, and whether they may: a dependency of every route but those that let somebody in."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cafs.manager.http.parts import Here, client_address
from cafs.manager.refusals import DeniedError, ThrottledError, UnauthenticatedError
from cafs.manager.users.roles import Caller, Need, Role, Scope, Where, refusal
from cafs.manager.users.throttle import key_of_tokens
from cafs.manager.users.tokens import find_caller

_bearer = HTTPBearer(auto_error=False, description="A session's token, or a personal access token.")
_Given = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def needs(
    role: Role | None, scope: Scope | None, where: Where = Where.EVERYWHERE, *, any_token: bool = False
) -> Any:
    """For ``Annotated[Caller, needs(...)]``: see ``Need``."""
    need = Need(role, scope, where, any_token)

    def check(request: Request, parts: Here, given: _Given) -> Caller:
        caller = _who(request, parts, given)
        text = str(request.path_params.get("cluster_id", ""))
        cluster_id = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
        if why := refusal(caller, need, cluster_id):
            raise DeniedError(why)
        return caller

    return Depends(check)


def _who(request: Request, parts: Here, given: _Given) -> Caller:
    if given is None:
        raise UnauthenticatedError("this needs a token: Authorization: Bearer ...")
    address = client_address(request)
    try:
        with parts.database.reading() as session:
            return find_caller(session, given.credentials, address)
    except UnauthenticatedError:
        # Good ones are let in all the same: others may share the address, and 256 bits are not guessed.
        if wait_s := parts.throttle.attempt(key_of_tokens(address), time.monotonic()):
            raise ThrottledError("too many wrong tokens came from there", wait_s) from None
        raise
