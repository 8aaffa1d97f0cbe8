"""What is sent and told, in common to several routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cafs.manager.users.passwords import LEAST, MOST
from cafs.manager.users.roles import Role, Scope

T = TypeVar("T")

MOST_ID = (1 << 31) - 1
"""Of INTEGER in PostgreSQL."""
_MOST_FIELDS = 64
"""More than any body has."""

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._@-]{0,62}$",
        description="Lower-case letters, digits, and . _ @ - within.",
        examples=["alice"],
    ),
]
"""Of an account."""
Label = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="Printable.",
    ),
]
"""Of other things, for people. Shown as what it is, never as markup or SQL."""
Password = Annotated[str, Field(min_length=LEAST, max_length=MOST, json_schema_extra={"writeOnly": True})]
Id = Annotated[int, Path(ge=1, le=MOST_ID)]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
After = Annotated[int, Query(ge=0, le=MOST_ID, description="Begin behind this number.")]


class Sent(BaseModel):
    """A body: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _is_bounded(cls, sent: Any) -> Any:
        """Each unknown field is an error of its own: 90,000 of them would be made in the event loop."""
        if isinstance(sent, dict) and len(sent) > _MOST_FIELDS:
            raise ValueError(f"has {_MOST_FIELDS} fields at most")
        return sent


class Told(BaseModel):
    """An answer, filled from a row."""

    model_config = ConfigDict(from_attributes=True)


class TokenTold(Told):
    """A personal access token, without its secret."""

    id: int
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime


class UserTold(Told):
    """An account."""

    id: int
    name: str
    role: Role | None
    """Everywhere."""
    disabled: bool
    can_sign_in: bool
    oidc: bool
    """Comes in by the OpenID provider."""
    created_at: datetime


class Page(BaseModel, Generic[T]):
    """Some of many."""

    items: list[T]
    next: int | None = Field(description="`after` (or `before`) of the next page; null: these were the last.")
