"""What a registry's 401 asks for, and how to answer it. Pure.

Sources: RFC 9110 11.6.1 (WWW-Authenticate), distribution auth/token.md (Bearer), docker/oauth (POST form).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cafs.errors import AuthError, ProtocolError
from cafs.oci.fields import parse_json_object

MAX_HEADER = 8 << 10
MAX_TOKEN_BYTES = 64 << 10
MAX_TOKEN_ANSWER = 256 << 10
_SHORTEST_LIFE_S = 60
"""auth/token.md: a token without expires_in lives at least so long."""
_LONGEST_LIFE_S = 3600

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - a token of RFC 9110, not a secret
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|{_TOKEN})[ \t]*(?=,|$)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|$|(?=,))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_SEPARATOR = re.compile(r"[ \t,]*")
_BEARER = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that the server offers; scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What we may show of ourselves. Never printed: its repr holds no secret."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token (docker's "identitytoken"): exchanged for access tokens, instead of a password."""
    registry_token: str = field(default="", repr=False)
    """An access token given ready-made."""

    @property
    def basic(self) -> str:
        """Value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class AskToken:
    """Get a token there, then come again."""

    realm: str
    service: str
    scope: str
    """As the server proposed it; may be empty."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and for how many seconds to use it."""

    value: str = field(repr=False)
    use_for_s: float


def parse_challenges(header: str) -> list[Challenge]:
    """Read a WWW-Authenticate header; what cannot be read ends the list."""
    challenges: list[Challenge] = []
    parameters: dict[str, str] = {}
    text = header[:MAX_HEADER]
    at = _skip(text, 0)
    while at < len(text):
        if challenges and (found := _PARAMETER.match(text, at)):
            parameters.setdefault(found[1].lower(), _unquote(found[2]))
        elif found := _SCHEME.match(text, at):
            parameters = {}
            challenges.append(Challenge(found[1].lower(), parameters))
            if not _PARAMETER.match(text, found.end()):
                found = _TOKEN68.match(text, found.end()) or found
        else:
            break
        at = _skip(text, found.end())
    return challenges


def _skip(text: str, at: int) -> int:
    found = _SEPARATOR.match(text, at)
    return found.end() if found else at


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def plan_answer(
    challenges: Sequence[Challenge], credentials: Credentials | None, name: str
) -> AskToken | str:
    """How to answer a 401: get a token, or the value of an Authorization header.

    Raises:
        AuthError: it wants credentials that we do not have, or a scheme that we do not speak.
    """
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            if credentials and credentials.registry_token:
                return "Bearer " + credentials.registry_token
            found = challenge.parameters
            return AskToken(found["realm"], found.get("service", ""), found.get("scope", ""))
    if any(challenge.scheme == "basic" for challenge in challenges):
        if credentials and credentials.username:
            return credentials.basic
        raise AuthError(f"{name} wants credentials: log in with `docker login` (or skopeo, podman) first")
    offered = ", ".join(sorted({c.scheme[:20] for c in challenges})) or "nothing"
    raise AuthError(f"{name} refused the request and offers no way to authenticate known here ({offered})")


def check_realm(realm: str, *, plain_http: bool, name: str) -> str:
    """The token server's address, if credentials may be sent there.

    Raises:
        ProtocolError: it is no absolute address, or plain HTTP where the registry itself is not.
    """
    try:
        url = urlsplit(realm)
        host = url.hostname
    except ValueError:
        host = None
    if not host or url.scheme not in {"https", "http"} or not realm.isprintable() or url.username:
        raise ProtocolError(f"{name} names a token server that is no address")
    if url.scheme == "http" and not plain_http:
        raise ProtocolError(f"{name} names a token server in plain HTTP ({host}): nothing was sent to it")
    return realm


def merge_scopes(wanted: Sequence[str], proposed: str) -> tuple[str, ...]:
    """Our scopes, and those that the server proposed beside them."""
    known = {scope.rpartition(":")[0] for scope in wanted}
    extra = [scope for scope in proposed.split() if scope.rpartition(":")[0] not in known]
    return (*wanted, *extra[:4])


def parse_token(content: bytes, what: str) -> Token:
    """Read a token server's answer.

    Raises:
        IntegrityError: wrong shape.
        ProtocolError: no usable token in it.
    """
    fields = parse_json_object(content, what, MAX_TOKEN_ANSWER)
    value = fields.long_text("token", MAX_TOKEN_BYTES) or fields.long_text("access_token", MAX_TOKEN_BYTES)
    if not value or not _BEARER.fullmatch(value):
        raise ProtocolError(f"{what} holds no token")
    life = fields.number("expires_in") or _SHORTEST_LIFE_S
    life = min(max(life, 0), _LONGEST_LIFE_S)
    return Token(value, life * 0.8)
