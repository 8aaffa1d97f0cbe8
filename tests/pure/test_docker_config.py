"""The docker configuration file: whose credentials are whose."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import IntegrityError, UsageError
from cafs.oci.registry.challenge import Credentials
from cafs.oci.registry.docker_config import (
    HUB_KEY,
    AskHelper,
    DockerConfig,
    find_credentials,
    parse_docker_config,
    parse_helper_answer,
)


def config(**value: Any) -> DockerConfig:
    return parse_docker_config(json.dumps(value).encode(), "config.json")


def auth(user: str, password: str = "p") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def user_for(known: DockerConfig, host: str) -> str | None:
    found = find_credentials(known, host)
    assert not isinstance(found, AskHelper)
    return found.username if found else None


def test_stored_credentials() -> None:
    known = config(
        auths={
            HUB_KEY: auth("hub"),
            "a.io": auth("a", "with:colon"),
            "https://b.io/v2/": auth("b"),
            "c.io:5000": {"username": "c", "password": "x"},
            "d.io": {},
            "e.io": {"identitytoken": "it"},
            "f.io": {**auth("f"), "registrytoken": "rt"},
        }
    )
    assert find_credentials(known, "a.io") == Credentials("a", "with:colon")
    assert user_for(known, "docker.io") == "hub"
    assert user_for(known, "b.io") == "b"
    assert user_for(known, "c.io:5000") == "c"
    assert user_for(known, "c.io") is None
    assert user_for(known, "d.io") is None
    assert find_credentials(known, "e.io") == Credentials(identity_token="it")
    assert find_credentials(known, "f.io") == Credentials("f", "p", registry_token="rt")
    assert user_for(known, "xa.io") is None
    assert user_for(known, "evil.io/a.io") is None


def test_helpers() -> None:
    known = config(auths={"a.io": auth("a")}, credHelpers={"a.io": "own"}, credsStore="store")
    assert find_credentials(known, "a.io") == AskHelper("own", "a.io")
    assert find_credentials(known, "b.io") == AskHelper("store", "b.io")
    assert find_credentials(known, "docker.io") == AskHelper("store", HUB_KEY)
    assert AskHelper("own", "a.io").program == "docker-credential-own"
    assert find_credentials(config(), "a.io") is None


@pytest.mark.parametrize("name", ["../../bin/sh", "a b", "-x", "x;y", "a/b"])
def test_helper_names_are_never_paths(name: str) -> None:
    with pytest.raises(UsageError, match="credential helper"):
        config(credHelpers={"a.io": name})
    with pytest.raises(UsageError, match="credential helper"):
        config(credsStore=name)


def test_a_broken_password_is_named_but_not_shown() -> None:
    with pytest.raises(UsageError, match=r"auths\['a.io'\]: auth is not base64") as error:
        config(auths={"a.io": {"auth": "!!sesame!!"}})
    assert "sesame" not in str(error.value)


def test_helper_answers() -> None:
    assert parse_helper_answer(b'{"Username": "u", "Secret": "s"}', "x") == Credentials("u", "s")
    answer = parse_helper_answer(b'{"Username": "<token>", "Secret": "s"}', "x")
    assert answer == Credentials(identity_token="s")
    with pytest.raises(IntegrityError):
        parse_helper_answer(b"nonsense", "x")


KEYS = st.sampled_from(
    ["auths", "auth", "username", "a.io", "credHelpers", "credsStore", HUB_KEY, "https://["]
)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=10) | st.just("YTpi"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_configuration_is_read_or_refused(value: dict[str, Any]) -> None:
    try:
        known = config(**value)
    except (IntegrityError, UsageError):
        return
    find_credentials(known, "a.io")
    find_credentials(known, "docker.io")
