"""What is agreed with an OpenID provider, and what its word on somebody means here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from cafs.core.settings import Settings
from cafs.errors import UsageError
from cafs.manager.refusals import DeniedError
from cafs.manager.users.roles import Role, highest

CALLBACK = "/oidc/callback"
"""Where the provider sends people back to, below the manager's site."""
NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")
_SUBJECT = 255
_GROUPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One, as the settings ``manager_oidc_*`` say it."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    roles: Mapping[str, Role] = field(default_factory=dict)
    """By group. When there are any, they decide who comes in, and as what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom the provider vouches for."""

    subject: str
    """With it for ever the same person; nobody else's."""
    name: str
    """What the account is called."""
    role: Role | None
    """As the groups say; None when they say nothing here."""


def provider_of(settings: Settings) -> Provider | None:
    """The configured one; None: nobody signs in so.

    Raises:
        UsageError: what is configured cannot be.
    """
    issuer = settings.manager_oidc_issuer
    if not issuer:
        return None
    if not is_safe(issuer):
        raise UsageError("manager_oidc_issuer must begin with https:// (http:// only on loopback)")
    if not settings.manager_oidc_client:
        raise UsageError("manager_oidc_issuer needs manager_oidc_client, the client id that it gave us")
    return Provider(
        issuer=issuer,
        client_id=settings.manager_oidc_client,
        client_secret=settings.manager_oidc_secret,
        name_claim=settings.manager_oidc_name,
        groups_claim=settings.manager_oidc_groups,
        roles=parse_roles(settings.manager_oidc_roles),
    )


def parse_roles(lines: Iterable[str]) -> dict[str, Role]:
    """``GROUP=ROLE`` of each line.

    Raises:
        UsageError: a line is none.
    """
    found = {}
    for line in lines:
        group, _, role = line.rpartition("=")
        if not group or role not in set(Role):
            raise UsageError(f"manager_oidc_roles: {line!r} is not GROUP=viewer, operator or admin")
        found[group] = Role(role)
    return found


def is_safe(address: str) -> bool:
    """Nobody on the way can read or change what is said there: TLS, or it is this machine."""
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return True
    return parts.scheme == "http" and _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def identity_of(claims: Mapping[str, Any], provider: Provider) -> Identity:
    """Of the claims of a checked ID token.

    Raises:
        DeniedError: they name nobody who could have an account, or none of the groups that may come in.
    """
    subject, name = claims.get("sub"), claims.get(provider.name_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT:
        raise DeniedError("the provider's token has no subject")
    if provider.name_claim == "email" and claims.get("email_verified") is not True:
        raise DeniedError("the provider has not verified this e-mail address")
    name = name.lower() if isinstance(name, str) else ""
    if not NAME.fullmatch(name):
        raise DeniedError(
            f"the claim {provider.name_claim!r} of the provider's token is no name of an account"
        )
    return Identity(subject=subject, name=name, role=_role_of(claims, provider))


def _role_of(claims: Mapping[str, Any], provider: Provider) -> Role | None:
    if not provider.roles:
        return None
    groups = claims.get(provider.groups_claim)
    groups = groups[:_GROUPS] if isinstance(groups, list) else [groups]
    roles = [provider.roles[group] for group in groups if isinstance(group, str) and group in provider.roles]
    if not roles:
        raise DeniedError("none of your groups may come in")
    return highest(roles)
