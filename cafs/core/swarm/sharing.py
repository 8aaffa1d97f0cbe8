"""Which contents hosts may share, by what their origin says of them. Pure.

As a shared HTTP cache decides (RFC 9111, 3, 3.5, 4.1 and 5.2.2): ``no-store`` and ``private`` are for
who asked, and what varies with fields of the request is for requests that agree in them. Hosts agree in what
they leave out: who sends such a field gets his own. Credentials are another matter: each who shows some is
tried at the origin, which must tell him the same validator; so there ``private`` forbids nothing, and what
has no validator could be anything. A digest says which content it is, whatever the origin thinks of caches.
"""

from __future__ import annotations

from collections.abc import Iterable

from cafs.core.credentials import is_secret_field

Headers = Iterable[tuple[str, str]]
_ANY_TYPE = "*/*"
"""What a request without Accept accepts."""


def why_not_shared(told: Headers, sent: Headers, *, private: bool) -> str:
    """Why a content without digest is only for who asked for it; empty: all who ask alike may have it.

    Args:
        told: Header fields of the origin's answer, names in small letters.
        sent: Those of the wish.
        private: It was asked for with credentials.
    """
    fields = tuple(told)
    directives = {part.partition("=")[0].strip().lower() for part in _listed(fields, "cache-control")}
    if "no-store" in directives:
        return "Cache-Control: no-store"
    if private:
        validated = any(name in {"etag", "last-modified"} for name, _ in fields)
        if not validated and not directives & {"public", "s-maxage"}:
            return "it needs credentials, and has neither ETag nor Last-Modified"
    elif "private" in directives:
        return "Cache-Control: private"
    return _why_it_varies(_listed(fields, "vary"), sent)


def _why_it_varies(names: Iterable[str], sent: Headers) -> str:
    values = {name.lower(): value.strip() for name, value in sent}
    for name in (name.strip().lower() for name in names):
        if name == "*":
            return "Vary: *"
        if is_secret_field(name) or name == "accept-encoding":  # which is always ours
            continue
        if values.get(name, "") not in {"", _ANY_TYPE if name == "accept" else ""}:
            return f"Vary: {name}"
    return ""


def _listed(fields: Headers, name: str) -> list[str]:
    return [part for key, value in fields if key.lower() == name for part in value.split(",")]
