"""Credentials that were brought for an image: read, found, handed on, never shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import IntegrityError, UsageError
from cafs.oci.registry.challenge import Credentials
from cafs.oci.registry.pull_secrets import MAX_DUMP_BYTES, PullSecret, PullSecrets, parse_pull_secret

ALICE, BOB = Credentials("alice", "sesame"), Credentials("bob", "s3cret")


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("image", "host", "repository"),
    [
        ("a.io:5000/team/app:v1", "a.io:5000", "team/app"),
        ("a.io/team/app@sha256:" + "0" * 64, "a.io", "team/app"),
        ("nginx", "docker.io", "library/nginx"),
    ],
)
def test_an_image_names_host_and_repository(image: str, host: str, repository: str) -> None:
    secret = parse_pull_secret(body(image=image, username="alice", secret="sesame"))
    assert secret == PullSecret(host, repository, ALICE)
    assert parse_pull_secret(secret.encode()) == secret


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_one_name(host: str) -> None:
    secret = parse_pull_secret(body(host=host, image="nginx", identity_token="t"))
    assert (secret.host, secret.credentials) == ("docker.io", Credentials(identity_token="t"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[]", IntegrityError),
        (b"x" * 300_000, IntegrityError),
        (body(host="a.io", username="u" * 5000), IntegrityError),
        (body(username="alice", secret="sesame"), UsageError),
        (body(host="a.io"), UsageError),
        (body(host="a.io", secret="sesame"), UsageError),
        (body(host="b.io", image="a.io/app", username="alice"), UsageError),
        (body(image="oci:/var/app", username="alice"), UsageError),
        (body(image="A B", username="alice", secret="sesame"), UsageError),
    ],
)
def test_what_is_no_secret_is_refused_without_repeating_it(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        parse_pull_secret(content)
    assert "sesame" not in str(caught.value)


def test_the_newest_is_first_and_others_repositories_have_nothing() -> None:
    secrets = PullSecrets()
    for secret in (PullSecret("a.io", "app", ALICE), PullSecret("a.io", "app", BOB)):
        secrets.remember(secret)
    assert secrets.find("a.io", "app") == (BOB, ALICE)
    assert secrets.find("a.io", "other") == ()
    secrets.remember(PullSecret("a.io", "app", ALICE))
    assert secrets.find("a.io", "app") == (ALICE, BOB)
    secrets.remember(PullSecret("a.io", "", BOB))
    assert secrets.find("a.io", "other") == (BOB,)
    assert secrets.find("a.io", "app") == (ALICE, BOB, BOB)


async def test_what_was_brought_comes_before_dockers_configuration() -> None:
    secrets = PullSecrets()
    secrets.remember(PullSecret("a.io", "app", ALICE))
    first, *rest = secrets.sources("a.io", "app")
    assert await first() == ALICE
    assert len(rest) == 1


def test_it_is_bounded() -> None:
    secrets = PullSecrets()
    for number in range(1100):
        for user in range(6):
            secrets.remember(PullSecret("a.io", f"app{number}", Credentials(f"u{user}", "p")))
    assert secrets.find("a.io", "app0") == ()
    assert [found.username for found in secrets.find("a.io", "app1099")] == ["u5", "u4", "u3", "u2"]


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)
_CREDENTIALS = st.builds(Credentials, _TEXT.filter(bool), _TEXT, _TEXT, _TEXT)


@given(
    st.lists(
        st.builds(
            PullSecret, st.sampled_from(["a.io", "b.io:1"]), st.sampled_from(["", "x", "y/z"]), _CREDENTIALS
        )
    )
)
def test_a_successor_knows_the_same(brought: list[PullSecret]) -> None:
    before, after = PullSecrets(), PullSecrets()
    for secret in brought:
        before.remember(secret)
    after.restore(before.dump() + b"\nnot JSON\n{}")
    for secret in brought:
        assert after.find(secret.host, secret.repository) == before.find(secret.host, secret.repository)


def test_a_dump_has_a_bound_and_keeps_the_newest() -> None:
    secrets, after = PullSecrets(), PullSecrets()
    for number in range(100):
        secrets.remember(PullSecret("a.io", f"app{number}", Credentials("u", "p" * 60_000)))
    assert len(secrets.dump()) <= MAX_DUMP_BYTES
    after.restore(secrets.dump())
    assert after.find("a.io", "app99")
    assert not after.find("a.io", "app0")


def test_no_secret_is_shown_by_a_repr() -> None:
    secret = PullSecret("a.io", "app", Credentials("alice", "sesame", "identity", "token"))
    assert not any(word in repr(secret) for word in ("alice", "sesame", "identity", "token"))
