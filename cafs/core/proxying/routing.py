"""From a request that was read to what becomes of it. Pure.

``plan_request`` is called with the address that the request is for, whatever form it came in; it knows
the rules, and nothing of connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256

from cafs.core.credentials import query_has_secrets
from cafs.core.digest import Digest
from cafs.core.proxying.address import Address
from cafs.core.proxying.byte_range import ByteRange, parse_ranges
from cafs.core.proxying.content import digest_in, looks_like_content, repository_in
from cafs.core.proxying.directed import Directions
from cafs.core.proxying.fields import credentials
from cafs.core.proxying.head import RequestHead
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.core.proxying.rules import Action, Rule, first_match
from cafs.core.swarm.priorities import policy_of


class Way(Enum):
    """How a request is served."""

    FORWARD = "forward"
    """Passed on to the origin as it is, and its answer passed back."""
    DISTRIBUTE = "distribute"
    """Content, from wherever it is nearest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one request."""

    way: Way
    address: Address
    """Of the origin; in TLS where a rule wants that."""
    directions: Directions
    why: str
    """For the log: the rule, or what else decided."""
    wanted: ByteRange | None = None
    """The one range that is wanted; None: all."""
    digest: Digest | None = None
    """What the whole content must have."""
    scope: str = ""
    """Keeps what this client may see only with its credentials from those who show none. No client can
    choose it: it begins with a space, which a field's value cannot."""


def plan_request(head: RequestHead, address: Address, directions: Directions, rules: Sequence[Rule]) -> Plan:
    """Decide about one request.

    Raises:
        RequestRefusedError: a rule blocks it, or its priority does.
    """
    if policy_of(directions.priority).blocked:
        raise RequestRefusedError(403, f"blocked: its priority is {directions.priority}")
    rule = first_match(rules, address.url)
    if rule is not None and rule.action is Action.BLOCKED:
        raise RequestRefusedError(403, "blocked by a rule of this proxy")
    if rule is not None and rule.action is Action.HTTPS:
        address = address.in_tls()
    content, why = _is_content(head, address, directions, rule)
    plan = Plan(Way.FORWARD, address, directions, why)
    if not content or head.method != "GET" or head.body_bytes != 0:
        return plan
    ranges = parse_ranges(head.get("range")) if head.get("range") else []
    if ranges and (len(ranges) > 1 or ranges[0].is_suffix):
        return replace(plan, why="several ranges, or one from the end")
    return replace(
        plan,
        way=Way.DISTRIBUTE,
        wanted=ranges[0] if ranges else None,
        digest=directions.digest or digest_in(address.path),
        scope=scope_of(head, address),
    )


def _is_content(
    head: RequestHead, address: Address, directions: Directions, rule: Rule | None
) -> tuple[bool, str]:
    """Whether this is for the swarm, and what says so; the first reason that there is."""
    if directions.p2p is not None:
        return directions.p2p, "the request says so"
    if rule is not None and rule.action is not Action.HTTPS:
        return rule.action is Action.P2P, f"rule: {rule}"
    if digest_in(address.path):
        return True, "a blob"
    if credentials(head.fields):
        return False, "an answer to who is asking"
    looks = looks_like_content(address.path, address.query)
    return looks, "looks like content" if looks else "no rule"


def scope_of(head: RequestHead, address: Address) -> str:
    """See ``Plan.scope``: the site, and the repository, or else the path.

    An origin lets a client in at one path. With a digest, contents of others would be the same task.
    """
    if not credentials(head.fields) and not query_has_secrets(address.query):
        return ""
    inside = repository_in(address.path) or sha256(address.path.encode()).hexdigest()[:32]
    return private_scope(f"{address.scheme}://{address.authority}", inside)


def private_scope(site: str, inside: str) -> str:
    """Of what needs credentials in one repository of a site, or what else is one thing there."""
    return f" private {site}/{inside}"
