"""What comes with a CRI pull, as containerd's ParseAuth reads it."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cri.pull_auth import credentials_of_pull
from cafs.errors import UsageError
from cafs.oci.registry.challenge import Credentials
from cafs.oci.registry.pull_secrets import parse_pull_secret
from cafs.proto.cri_pb2 import AuthConfig, ImageSpec, PullImageRequest

APP = {"host": "a.io:5000", "image": "a.io:5000/team/app"}


def pull(image: str = "a.io:5000/team/app:v1", **auth: str) -> bytes:
    return PullImageRequest(image=ImageSpec(image=image), auth=AuthConfig(**auth)).SerializeToString()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "found"),
    [
        ({"username": "alice", "password": "p"}, {"username": "alice", "secret": "p"}),
        ({"auth": encoded("alice:p:q")}, {"username": "alice", "secret": "p:q"}),
        ({"auth": encoded("alice:p\0\0")}, {"username": "alice", "secret": "p"}),
        (
            {"username": "alice", "password": "p", "auth": encoded("b:q")},
            {"username": "alice", "secret": "p"},
        ),
        ({"identity_token": "it"}, {"identity_token": "it"}),
        ({"registry_token": "rt"}, {"registry_token": "rt"}),
        ({"username": "a", "server_address": "a.io:5000"}, {"username": "a"}),
        ({"username": "a", "server_address": "https://a.io:5000/v2/"}, {"username": "a"}),
    ],
)
def test_each_form_is_read(auth: dict[str, str], found: dict[str, str]) -> None:
    assert credentials_of_pull(pull(**auth)) == {**APP, **found}


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"password": "p"},
        {"username": "a", "server_address": "b.io"},
        {"username": "a", "server_address": "[::"},
    ],
)
def test_nothing_for_this_registry(auth: dict[str, str]) -> None:
    assert credentials_of_pull(pull(**auth)) is None


def test_docker_hub_by_any_name() -> None:
    found = credentials_of_pull(pull("nginx", username="a", server_address="https://index.docker.io/v1/"))
    assert found == {"host": "docker.io", "image": "docker.io/library/nginx", "username": "a"}


@pytest.mark.parametrize(
    "request_bytes",
    [b"\xff\xff", pull("A B", username="sesame"), pull(auth="sesame!"), pull("oci:/x", username="a")],
)
def test_what_cannot_be_read_is_refused_without_its_secrets(request_bytes: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        credentials_of_pull(request_bytes)
    assert "sesame" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(UsageError):
        credentials_of_pull(content)


def test_the_mount_server_understands_it() -> None:
    found = credentials_of_pull(pull(username="alice", password="p", registry_token="rt"))
    secret = parse_pull_secret(json.dumps(found).encode())
    assert (secret.host, secret.repository) == ("a.io:5000", "team/app")
    assert secret.credentials == Credentials("alice", "p", "", "rt")
