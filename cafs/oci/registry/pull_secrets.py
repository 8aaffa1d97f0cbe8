"""Credentials that somebody brought for an image: Kubernetes' pull secrets, as CRI passes them. Pure.

Kept in memory only, never on a disk and never in a log. The mount server fills it (``PUT /credentials`` on
its socket) and asks it before Docker's configuration. A secret serves the repository it came with; one that
came without an image serves its whole host.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cafs.errors import IntegrityError, UsageError
from cafs.oci.fields import Fields, parse_json_object
from cafs.oci.reference import RegistryReference, canonical_host, parse_reference
from cafs.oci.registry.auth import Load
from cafs.oci.registry.challenge import Credentials
from cafs.oci.registry.credentials import docker_sources

MAX_SECRET_BYTES = 256 << 10
MAX_DUMP_BYTES = 1 << 20
_MAX_PLACES = 1000
"""Repositories for which secrets are remembered; the one that was longest without news goes first."""
_MAX_FOR_ONE = 4
"""Pods with different secrets may pull from one repository: so many of the newest are tried."""

SourcesOf = Callable[[str, str], Sequence[Load]]
"""From host and repository to where credentials are looked for at this moment."""


@dataclass(frozen=True, slots=True)
class PullSecret:
    """Credentials and what they are for."""

    host: str
    repository: str
    """Empty: everything on this host."""
    credentials: Credentials = field(repr=False)

    def encode(self) -> bytes:
        """As the body of ``PUT /credentials``."""
        secret = self.credentials
        body = {
            "host": self.host,
            "image": f"{self.host}/{self.repository}" if self.repository else "",
            "username": secret.username,
            "secret": secret.password,
            "identity_token": secret.identity_token,
            "registry_token": secret.registry_token,
        }
        return json.dumps({key: value for key, value in body.items() if value}).encode()


def parse_pull_secret(content: bytes) -> PullSecret:
    """Read the body of ``PUT /credentials``; none of its values is repeated in an error.

    Raises:
        IntegrityError: it is no JSON object, or a value is too long.
        UsageError: it names no host, or holds no credentials.
    """
    return _secret_of(parse_json_object(content, "the credentials", MAX_SECRET_BYTES))


def _secret_of(fields: Fields) -> PullSecret:
    image, host = fields.optional_text("image"), fields.optional_text("host")
    found = parse_reference(image) if image else None
    if found is not None and not isinstance(found, RegistryReference):
        raise UsageError("the credentials are for an image that is in no registry")
    host = canonical_host(host) if host else found.host if found else ""
    if not host:
        raise UsageError("the credentials name no host and no image")
    if found is not None and found.host != host:
        raise UsageError(f"the credentials are for {host[:80]}, their image is on {found.host}")
    credentials = Credentials(
        fields.long_text("username", 4096),
        fields.long_text("secret", 65536),
        fields.long_text("identity_token", 65536),
        fields.long_text("registry_token", 65536),
    )
    if not (credentials.username or credentials.identity_token or credentials.registry_token):
        raise UsageError("the credentials hold neither user nor token")
    return PullSecret(host, found.repository if found else "", credentials)


class PullSecrets:
    """What was brought, newest first. For use from one thread."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[str, str], tuple[Credentials, ...]] = OrderedDict()

    def remember(self, secret: PullSecret) -> None:
        """From now on this one is tried first."""
        place = (secret.host, secret.repository)
        older = [known for known in self._places.pop(place, ()) if known != secret.credentials]
        self._places[place] = (secret.credentials, *older[: _MAX_FOR_ONE - 1])
        if len(self._places) > _MAX_PLACES:
            self._places.popitem(last=False)

    def find(self, host: str, repository: str) -> tuple[Credentials, ...]:
        """What was brought for this repository, then what was for its host."""
        return (*self._places.get((host, repository), ()), *self._places.get((host, ""), ()))

    def sources(self, host: str, repository: str) -> Sequence[Load]:
        """Where to look for credentials: here, then in Docker's configuration."""
        return (*(_given(found) for found in self.find(host, repository)), *docker_sources(host))

    def dump(self) -> bytes:
        """Everything, for a successor: the newest that fit into ``MAX_DUMP_BYTES``, oldest first."""
        lines: list[bytes] = []
        room = MAX_DUMP_BYTES
        for (host, repository), kept in reversed(self._places.items()):
            for credentials in kept:
                line = PullSecret(host, repository, credentials).encode()
                room -= len(line) + 1
                if room < 0:
                    return b"\n".join(reversed(lines))
                lines.append(line)
        return b"\n".join(reversed(lines))

    def restore(self, dumped: bytes) -> None:
        """Take over what a predecessor dumped; lines that are not as they must be are left out."""
        for line in dumped.splitlines():
            try:
                self.remember(parse_pull_secret(line))
            except (IntegrityError, UsageError):
                continue


def _given(credentials: Credentials) -> Load:
    async def load() -> Credentials:
        return credentials

    return load
