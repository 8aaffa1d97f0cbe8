"""What in a request lets its client in, by names alone: of header fields, of parameters in an address. Pure.

Who hands out and keeps tokens has names of his own for them, so a list is never whole: words decide. Too many
is safe. What is taken for credentials makes a content private (the origin is asked whether it accepts them
before a byte is handed out), and stays with the origin that it was given for.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_WORDS = frozenset(("auth", "oauth", "key", "sig", "sign", "jwt", "sas", "pat", "pwd", "hmac"))
_PARTS = re.compile(
    "token|secret|passw|credential|signature|cookie|session|authoriz|authent|(?:api|access)key|accessid"
)
_FIELDS = frozenset(("x-jfrog-art-api",))
_PARAMETERS = frozenset(("policy", "expires", "verify"))
"""Of addresses that are signed for a while."""
_BETWEEN = re.compile(r"[^a-z0-9]+")


def is_secret_field(name: str) -> bool:
    """Whether a header field of this name says who asks."""
    name = name.lower()
    return name in _FIELDS or _is_secret(name)


def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of an address lets in who knows the address; ``name`` may still be encoded."""
    name = unquote_plus(name).lower()
    return name in _PARAMETERS or _is_secret(name)


def query_has_secrets(query: str) -> bool:
    """Whether any parameter of a query does."""
    return any(is_secret_parameter(part.partition("=")[0]) for part in re.split("[&;]", query))


def _is_secret(name: str) -> bool:
    return _PARTS.search(name) is not None or not _WORDS.isdisjoint(_BETWEEN.split(name))
