"""Changes say what they rest on: ETag and If-Match (RFC 9110, 13.1.1).

A thing's ETag is the count of its changes. A change of a thing that was changed meanwhile is refused with
409, and told in which fields what it is now is not what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Header

from cafs.manager.refusals import ConflictError, UnconditionalError

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag of what the change rests on, or `*`.", max_length=1000),
]


def etag_of(version: int) -> str:
    """Of a thing that was changed so often."""
    return f'"{version}"'


def check_match(
    if_match: str | None, version: int, current: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Whether a change rests on what is.

    Args:
        if_match: The header.
        version: Of the thing as it is.
        current: Its fields.
        wanted: Those that are to be changed, as they should become.

    Raises:
        UnconditionalError: it does not say.
        ConflictError: it was changed since.
    """
    if if_match is None:
        raise UnconditionalError("say what the change rests on: If-Match with the ETag, or with *")
    tags = {tag.strip() for tag in if_match.split(",")}
    if "*" in tags or etag_of(version) in tags:
        return
    differs = {
        name: {"is": current.get(name), "sent": value}
        for name, value in wanted.items()
        if current.get(name) != value
    }
    raise ConflictError("it was changed meanwhile", etag_of(version), differs)
