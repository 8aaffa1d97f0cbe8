"""What was changed by whom."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from cafs.manager.http.caller import needs
from cafs.manager.http.models import MOST_ID, Limit, Page, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.users.audit import list_changes
from cafs.manager.users.roles import Caller, Role, Scope

routes = APIRouter(prefix="/audit", tags=["audit"])
Before = Annotated[int | None, Query(ge=1, le=MOST_ID, description="Older than this number.")]


class ChangeTold(Told):
    """One change."""

    id: int
    at: datetime
    who: str
    by: str = Field(description="`session`, or `token NAME`.")
    address: str
    action: str
    thing: str
    before: dict[str, Any] | None = Field(description="What was changed, as it was; null: it was not there.")
    after: dict[str, Any] | None = Field(description="The same, as it is; null: it is gone.")


@routes.get("", responses=declared(401, 403, 422, 503))
def list_audit(
    _caller: Annotated[Caller, needs(Role.ADMIN, Scope.AUDIT_READ)],
    parts: Here,
    before: Before = None,
    limit: Limit = 100,
) -> Page[ChangeTold]:
    """All changes, the newest first."""
    with parts.database.reading() as session:
        found = list_changes(session, before, limit + 1)
    items = [ChangeTold.model_validate(change) for change in found[:limit]]
    return Page(items=items, next=items[-1].id if len(found) > limit else None)
