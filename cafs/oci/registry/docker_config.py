"""``~/.docker/config.json``: which credentials, or which helper program, belong to a registry. Pure.

Source: docker/cli, cli/config (configfile, credentials); credential helpers: docker-credential-helpers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cafs.errors import UsageError
from cafs.oci.fields import Fields, parse_json_object
from cafs.oci.reference import DOCKER_HUB
from cafs.oci.registry.challenge import Credentials

HUB_KEY = "https://index.docker.io/v1/"
"""Under this docker keeps what belongs to Docker Hub."""
MAX_CONFIG_BYTES = 1 << 20
MAX_HELPER_ANSWER = 256 << 10
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_IDENTITY_USER = "<token>"


@dataclass(frozen=True, slots=True)
class AskHelper:
    """Run ``docker-credential-NAME get`` with ``server`` on its standard input."""

    name: str
    server: str

    @property
    def program(self) -> str:
        return f"docker-credential-{self.name}"


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The parts of the file that are about credentials."""

    stored: Mapping[str, Credentials]
    helpers: Mapping[str, str]
    store: str | None


def parse_docker_config(content: bytes, what: str) -> DockerConfig:
    """Read the file.

    Raises:
        IntegrityError: wrong shape.
        UsageError: a stored password or the name of a helper is not as docker writes it.
    """
    fields = parse_json_object(content, what, MAX_CONFIG_BYTES)
    stored = {key: _stored(entry, f"{what}: auths[{key[:80]!r}]") for key, entry in fields.members("auths")}
    store = fields.optional_text("credsStore")
    helpers = fields.text_map("credHelpers")
    for helper in (store, *helpers.values()):
        if helper and not _HELPER.fullmatch(helper):
            raise UsageError(f"{what}: {helper[:80]!r} is not the name of a credential helper")
    return DockerConfig({key: found for key, found in stored.items() if found}, helpers, store)


def _stored(entry: Fields, where: str) -> Credentials | None:
    user, password = entry.long_text("username", 4096), entry.long_text("password", 65536)
    if auth := entry.long_text("auth", 65536):
        try:
            decoded = base64.b64decode(auth, validate=True).decode()
        except ValueError as e:  # not ASCII, not base64, or not UTF-8
            raise UsageError(f"{where}: auth is not base64 of USER:PASSWORD; log in again") from e
        user, _, password = decoded.rstrip("\0").partition(":")
    identity, registry = entry.long_text("identitytoken", 65536), entry.long_text("registrytoken", 65536)
    if not (user or identity or registry):
        return None
    return Credentials(user, password, identity, registry)


def find_credentials(config: DockerConfig, host: str) -> Credentials | AskHelper | None:
    """What the file says for a registry: a helper of its own, then the store, then what is stored."""
    keys = (HUB_KEY, "index.docker.io", DOCKER_HUB) if host == DOCKER_HUB else (host,)
    for key in keys:
        if helper := config.helpers.get(key):
            return AskHelper(helper, key)
    for key in keys:
        if found := config.stored.get(key):
            return found
    for key, found in config.stored.items():
        if _host_of(key) in keys:
            return found
    return AskHelper(config.store, keys[0]) if config.store else None


def _host_of(key: str) -> str:
    """docker's ConvertToHostname: a key may be an address with scheme and path."""
    try:
        return urlsplit(key if "://" in key else f"//{key}").netloc
    except ValueError:
        return key


def parse_helper_answer(content: bytes, what: str) -> Credentials:
    """Read what a helper printed.

    Raises:
        IntegrityError: wrong shape.
    """
    fields = parse_json_object(content, what, MAX_HELPER_ANSWER)
    user, secret = fields.long_text("Username", 4096), fields.long_text("Secret", 65536)
    if user == _IDENTITY_USER:
        return Credentials(identity_token=secret)
    return Credentials(user, secret)
