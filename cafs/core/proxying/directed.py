"""Requests that say themselves how they are to be served: fields that begin with ``X-Cafs-``. Pure.

| field | means |
|---|---|
| ``X-Cafs-Use`` | ``p2p`` or ``direct``, whatever the rules say (a blocked address stays blocked) |
| ``X-Cafs-Digest`` | the content's digest: verified, and one task whatever the address |
| ``X-Cafs-Tag``, ``X-Cafs-Application`` | keep tasks apart that have the same address |
| ``X-Cafs-Filter`` | names of query parameters (``&`` or ``,`` between) that make no other content |
| ``X-Cafs-Priority`` | 0 (refused) to 6 (most urgent): ``cafs.core.swarm.priorities`` |
| ``X-Cafs-Registry`` | see ``mirror`` |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cafs.core.digest import Digest, parse_digest
from cafs.core.proxying.head import RequestHead
from cafs.core.proxying.refusal import bad_request
from cafs.core.swarm.priorities import HIGHEST, USUAL
from cafs.errors import UsageError

_NAME = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?")
_PARAMETER = re.compile(r"[A-Za-z0-9._~\-%\[\]]{1,100}")
_KNOWN = frozenset(("use", "digest", "tag", "application", "filter", "priority", "registry"))
_MAX_PARAMETERS = 50


@dataclass(frozen=True, slots=True)
class Directions:
    """What a request says about itself."""

    p2p: bool | None = None
    digest: Digest | None = None
    tag: str = ""
    application: str = ""
    filtered_query: tuple[str, ...] = ()
    priority: int = USUAL


def parse_directions(head: RequestHead) -> Directions:
    """Read the fields that are for us.

    Raises:
        RequestRefusedError: one of them is unknown, there twice, or says what cannot be.
    """
    given: dict[str, str] = {}
    for name, value in head.fields:
        if name.startswith("x-cafs-"):
            key = name.removeprefix("x-cafs-")
            if key not in _KNOWN or key in given:
                raise bad_request(f"{name[:60]} is not known here, or given twice")
            given[key] = value
    asks_for_content = bool(given.keys() & {"digest", "tag", "application"})
    return Directions(
        p2p=_parse_use(given["use"]) if "use" in given else asks_for_content or None,
        digest=_parse_digest(given["digest"]) if "digest" in given else None,
        tag=_parse_name(given, "tag"),
        application=_parse_name(given, "application"),
        filtered_query=_parse_filter(given.get("filter", "")),
        priority=_parse_priority(given["priority"]) if "priority" in given else USUAL,
    )


def _parse_use(text: str) -> bool:
    if text.lower() not in {"p2p", "direct"}:
        raise bad_request("x-cafs-use must be p2p or direct")
    return text.lower() == "p2p"


def _parse_digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except UsageError as e:
        raise bad_request("x-cafs-digest must be a digest (sha256: and 64 hex digits)") from e


def _parse_name(given: dict[str, str], key: str) -> str:
    text = given.get(key, "")
    if text and not _NAME.fullmatch(text):
        raise bad_request(f"x-cafs-{key} has 1 to 256 printable letters")
    return text


def _parse_filter(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.replace(",", "&").split("&") if name.strip()]
    if len(names) > _MAX_PARAMETERS or not all(map(_PARAMETER.fullmatch, names)):
        raise bad_request("x-cafs-filter must list names of query parameters")
    return tuple(sorted(set(names)))


def _parse_priority(text: str) -> int:
    if not text.isdecimal() or len(text) > 1 or int(text) > HIGHEST:
        raise bad_request(f"x-cafs-priority goes from 0 to {HIGHEST}")
    return int(text)
