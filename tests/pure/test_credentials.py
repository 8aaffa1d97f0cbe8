"""What is taken for credentials, by its name: known ones, and those that nobody has heard of yet."""

from __future__ import annotations

import pytest

from cafs.core.credentials import is_secret_field, query_has_secrets
from cafs.core.proxying.fields import credentials, end_to_end, without_credentials
from cafs.core.swarm.ids import is_private
from cafs.scheduler.urls import is_clean


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Cookie", "PRIVATE-TOKEN", "Job-Token", "X-Auth-Token", "X-API-Key", "api-key",
        "X-Amz-Security-Token", "X-Goog-Iam-Authorization-Token", "X-JFrog-Art-Api", "X-Vault-Token",
        "X-Goog-Api-Key", "Circle-Token", "X-Auth-Key", "Ocp-Apim-Subscription-Key", "X-Cafs-Credentials",
        "X-Session-Id",
    ],
)  # fmt: skip
def test_fields_that_let_somebody_in(name: str) -> None:
    assert is_secret_field(name)
    assert is_private("https://h/f.bin", ((name, "x"),))
    field = (name.lower(), "x")
    assert without_credentials([field, ("accept", "*/*")]) == [("accept", "*/*")]
    assert credentials([field]) == (field,)
    assert field in end_to_end([("connection", name), field])


@pytest.mark.parametrize(
    "name",
    [
        "accept", "user-agent", "range", "if-none-match", "cache-control", "traceparent", "x-request-id",
        "accept-encoding", "referer", "origin", "x-forwarded-for", "keep-alive", "x-cafs-tag",
    ],
)  # fmt: skip
def test_fields_that_do_not(name: str) -> None:
    assert not is_secret_field(name)
    assert not is_private("https://h/f.bin", ((name, "x"),))


def test_what_a_proxy_is_told_is_not_for_the_origin() -> None:
    assert credentials([("proxy-authorization", "Basic x")]) == ()


@pytest.mark.parametrize(
    "query",
    [
        "a=1&X-Amz-Signature=2", "SIG=1", "token", "private_token=x", "X%2DAmz%2DSignature=1", "a;jwt=1",
        "x-oss-signature=1", "X-Tos-Security-Token=1", "q-signature=1", "AWSAccessKeyId=1", "Expires=1",
        "client_secret=x", "GoogleAccessId=1", "sv=1&se=2&sig=3", "Key-Pair-Id=1", "auth_key=1",
        "session_id=1", "PHPSESSION=1",
    ],
)  # fmt: skip
def test_addresses_that_let_somebody_in(query: str) -> None:
    assert query_has_secrets(query)
    assert is_private(f"https://h/f.bin?{query}", ())
    assert not is_clean(f"https://h/f.bin?{query}")  # to a scheduler, whatever a peer takes it for


@pytest.mark.parametrize(
    "query",
    [
        "",
        "page=2&size=3",
        "ns=docker.io",
        "download=true",
        "monkey=1",
        "by=x",
        "design=1&author=x&x-oss-process=y",
    ],
)
def test_addresses_that_do_not(query: str) -> None:
    assert not query_has_secrets(query)
    assert is_clean(f"https://h/f.bin?{query}")


@pytest.mark.parametrize(
    "url", ["https://u:p@h/f", "https://h/f#part", "https://[h/f", "https://h/\n", "h/" * 4097]
)
def test_what_a_scheduler_keeps_no_address_of(url: str) -> None:
    assert not is_clean(url)
