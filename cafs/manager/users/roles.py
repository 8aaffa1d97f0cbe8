"""What a caller may do. Pure.

A role holds everywhere or in one cluster; the higher one counts. What a token may do is what its account
may do, as far as the token's scopes reach. docs/manager.md has the table of routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum


class Role(StrEnum):
    """Each may do all that the one before may."""

    VIEWER = "viewer"
    """Looks."""
    OPERATOR = "operator"
    """Changes what runs: configuration, hosts, jobs."""
    ADMIN = "admin"
    """Changes clusters; everywhere: accounts, too, and sees what was changed by whom."""


class Scope(StrEnum):
    """What a personal access token may be used for."""

    CLUSTERS_READ = "clusters:read"
    CLUSTERS_WRITE = "clusters:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    AUDIT_READ = "audit:read"
    PROFILES_READ = "profiles:read"
    PROFILES_WRITE = "profiles:write"


class Where(Enum):
    """Where a role has to hold."""

    EVERYWHERE = "everywhere"
    CLUSTER = "in the cluster of the address"
    SOMEWHERE = "in any cluster"


_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Need:
    """What a route asks of its callers."""

    role: Role | None
    """None: any account."""
    scope: Scope | None
    """None: no token will do, only somebody who is signed in."""
    where: Where = Where.EVERYWHERE
    any_token: bool = False
    """Whatever its scopes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    account_id: int
    name: str
    role: Role | None
    """Everywhere."""
    cluster_roles: Mapping[int, Role]
    token_id: int
    by: str
    """``session`` or ``token NAME``, for the audit."""
    scopes: frozenset[str] | None
    """None: signed in, without a token's limits."""
    address: str = ""

    def role_in(self, cluster_id: int | None) -> Role | None:
        """The higher of everywhere's and the cluster's."""
        held = [role for role in (self.role, self.cluster_roles.get(cluster_id or 0)) if role is not None]
        return max(held, key=_RANK.__getitem__, default=None)

    def clusters(self) -> frozenset[int] | None:
        """Those it may look at; None: all."""
        return None if self.role is not None else frozenset(self.cluster_roles)


def refusal(caller: Caller, need: Need, cluster_id: int | None = None) -> str:
    """Why it may not; empty: it may."""
    limited = caller.scopes is not None and not need.any_token
    if limited and (need.scope is None or need.scope not in (caller.scopes or ())):
        return f"the token has not the scope {need.scope}" if need.scope else "sign in: no token may do this"
    if need.role is None:
        return ""
    match need.where:
        case Where.EVERYWHERE:
            held = caller.role
        case Where.CLUSTER:
            held = caller.role_in(cluster_id)
        case Where.SOMEWHERE:
            held = highest((caller.role, *caller.cluster_roles.values()))
    if held is None or _RANK[held] < _RANK[need.role]:
        return f"this needs the role {need.role} {need.where.value}"
    return ""


def highest(roles: Iterable[Role | None]) -> Role | None:
    """Of these; None: there is none."""
    return max((role for role in roles if role is not None), key=_RANK.__getitem__, default=None)
