"""Mirror mode: requests that name a path only, as if the proxy were the origin. Pure.

Whose path it is, in this order: the field ``X-Cafs-Registry`` (containerd's hosts.toml can set it),
containerd's ``?ns=HOST``, the first part of the path when it is a configured mirror's name (``/NAME/...``,
and ``/v2/NAME/...`` of a registry), else the default registry: what docker's ``registry-mirrors`` means.

Sources: containerd docs/hosts.md ("registry host namespace"), distribution-spec v1.1 (paths below /v2/).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urljoin

from cafs.core.proxying.address import Address, parse_absolute, parse_authority
from cafs.core.proxying.refusal import RequestRefusedError, bad_request
from cafs.errors import UsageError

REGISTRY_FIELD = "x-cafs-registry"
_MIRROR = re.compile(r"([a-z0-9][a-z0-9.\-]{0,62})=(https?://[^\s/?#@]+)((?:/[^\s?#]*)?)")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A site that is mirrored below a path of its own."""

    name: str
    base: str
    """``https://HOST[:PORT]``, with a path that does not end with a slash."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a request in origin-form is for."""

    target: str
    """Path and query without what was meant for us."""
    registry: str = ""
    """``HOST[:PORT]`` of a registry; empty for a mirror's site."""
    mirror: Mirror | None = None


def parse_mirrors(texts: Sequence[str]) -> dict[str, Mirror]:
    """Read the setting ``proxy_mirrors``: ``NAME=https://HOST[/PATH]`` each.

    Raises:
        UsageError: one of them is none, or a name is there twice.
    """
    mirrors: dict[str, Mirror] = {}
    for number, text in enumerate(texts, 1):
        found = _MIRROR.fullmatch(text)
        if found is None:
            raise UsageError(f"number {number}, {text[:80]!r}: expected NAME=https://HOST[/PATH]")
        if found[1] in mirrors or found[1] == "v2":
            raise UsageError(f"number {number}: the name {found[1]!r} is taken")
        try:
            parse_absolute(found[2] + "/")
        except RequestRefusedError as e:
            raise UsageError(f"number {number}, {text[:80]!r}: {e}") from e
        mirrors[found[1]] = Mirror(found[1], (found[2] + found[3]).rstrip("/"))
    return mirrors


def parse_registry(text: str) -> str:
    """Read the setting ``proxy_registry``.

    Raises:
        UsageError: it is neither HOST nor HOST:PORT.
    """
    try:
        return _registry(text)
    except RequestRefusedError as e:
        raise UsageError(f"{text[:80]!r}: expected HOST or HOST:PORT") from e


def parse_mirrored(
    target: str, registry_field: str, mirrors: Mapping[str, Mirror], default_registry: str
) -> Mirrored:
    """Whom a request for ``target`` (origin-form, checked) is for.

    Raises:
        RequestRefusedError: it names a registry that is no host, or nobody is meant.
    """
    path, mark, query = target.partition("?")
    if not (path == "/v2" or path.startswith("/v2/")):
        return _named(path, mark + query, mirrors)
    namespace, query = _take_namespace(query)
    rest = f"?{query}" if query else ""
    if registry := registry_field or namespace:
        return Mirrored(path + rest, registry=_registry(registry))
    name, slash, below = path.removeprefix("/v2/").partition("/")
    if slash and name in mirrors:
        return Mirrored(f"/v2/{below}{rest}", mirror=mirrors[name])
    return Mirrored(path + rest, registry=default_registry)


def _named(path: str, rest: str, mirrors: Mapping[str, Mirror]) -> Mirrored:
    name, _, below = path[1:].partition("/")
    if name not in mirrors:
        raise RequestRefusedError(
            404, "nothing is mirrored below this path (a proxy is asked with whole addresses)"
        )
    return Mirrored(f"/{below}{rest}", mirror=mirrors[name])


def _take_namespace(query: str) -> tuple[str, str]:
    """containerd's ``ns`` parameter, and the query without it."""
    parts = query.split("&") if query else []
    names = [unquote(part[3:]) for part in parts if part.startswith("ns=")]
    if len(set(names)) > 1:
        raise bad_request("more than one registry is named")
    return names[0] if names else "", "&".join(part for part in parts if not part.startswith("ns="))


def _registry(text: str) -> str:
    """A registry's HOST[:PORT], with the port only where it was named."""
    bare = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    authority = parse_authority(bare, 443)
    named = bare.rpartition("]")[2].rpartition(":")[1] if bare.startswith("[") else ":" in bare
    return str(authority) if named else str(authority).removesuffix(":443")


def address_below(mirror: Mirror, target: str) -> Address:
    """The address that ``target`` below a mirror's path stands for."""
    return parse_absolute(mirror.base + target)


def target_of(mirror: Mirror, address: Address) -> str | None:
    """The path by which ``address`` is asked of us; None when it is not the mirror's site."""
    base = parse_absolute(mirror.base + "/")
    below = base.target.rstrip("/")
    if address.origin != base.origin or not address.target.startswith(below + "/"):
        return None
    return f"/{mirror.name}{address.target.removeprefix(below)}"


def leads_away(location: str, mirror: Mirror, address: Address) -> bool:
    """Whether a redirect given at ``address`` leads out of the mirror's site, to storage mostly."""
    onward = _onward(location, address)
    return onward is not None and target_of(mirror, onward) is None


def rewrite_for_client(
    fields: Sequence[tuple[str, str]], mirror: Mirror, ours: str, address: Address
) -> list[tuple[str, str]]:
    """The fields of an answer below a mirror's path, so that the client comes back to us for what they name.

    Addresses of the site itself are named by the mirror's path; others stay. ``X-Xet-*`` is left out: it
    tells clients of the Hugging Face hub to fetch by another protocol, past us.

    Args:
        fields: Of the origin's answer, names in small letters.
        mirror: The site.
        ours: ``http://HOST:PORT`` as the client knows us.
        address: What was asked at the origin.
    """
    rewritten = []
    for name, value in fields:
        if name == "location":
            onward = _onward(value, address)
            target = target_of(mirror, onward) if onward is not None else None
            rewritten.append((name, ours + target if target else value))
        elif name == "link":
            rewritten.append((name, _LINK.sub(lambda found: _link(found, mirror, ours), value)))
        elif not name.startswith("x-xet-"):
            rewritten.append((name, value))
    return rewritten


_LINK = re.compile(r"<(https?://[^<>]{1,8192})>")


def _onward(location: str, address: Address) -> Address | None:
    try:
        return parse_absolute(urljoin(address.url, location.partition("#")[0]))
    except (ValueError, RequestRefusedError):
        return None


def _link(found: re.Match[str], mirror: Mirror, ours: str) -> str:
    try:
        target = target_of(mirror, parse_absolute(found[1]))
    except RequestRefusedError:
        target = None
    return f"<{ours}{target}>" if target else found[0]
