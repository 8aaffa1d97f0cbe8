"""The tests' own registries and their faults do what other tests rely on."""

import base64
import hashlib
import time
from collections.abc import Callable

import httpx2 as httpx
import pytest

from tests.support.faults import (
    Cut,
    ExpireToken,
    FaultyRegistry,
    FlipBit,
    IgnoreRange,
    Slow,
    Stall,
    Status,
    WrongLength,
)
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.tokens import TokenServer

BODY = bytes(range(256)) * 1000
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()


def push(client: httpx.Client, url: str, repository: str) -> str:
    """Upload BODY as a blob and return its URL."""
    begun = client.post(f"{url}/v2/{repository}/blobs/uploads/")
    assert begun.status_code == 202, begun.text
    location = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": DIGEST})
    assert client.put(location, content=BODY).status_code == 201
    return f"{url}/v2/{repository}/blobs/{DIGEST}"


@pytest.fixture
def blob(docker_registry: Registry, faulty_registry: FaultyRegistry) -> str:
    with httpx.Client() as client:
        push(client, docker_registry.url, "faults/repo")
    return f"{faulty_registry.url}/v2/faults/repo/blobs/{DIGEST}"


def test_a_registry_keeps_blobs_in_its_folder(docker_registry: Registry) -> None:
    with httpx.Client() as client:
        url = push(client, docker_registry.url, "plain/repo")
        assert client.get(url).content == BODY
    assert docker_registry.blob_path(DIGEST).read_bytes() == BODY


def test_basic_authentication_is_wanted(basic_registry: Registry) -> None:
    assert httpx.get(basic_registry.url + "/v2/").status_code == 401
    assert httpx.get(basic_registry.url + "/v2/", auth=(USER, "wrong")).status_code == 401
    with httpx.Client(auth=(USER, PASSWORD)) as client:
        push(client, basic_registry.url, "basic/repo")


def test_a_token_opens_the_repository_it_names(token_registry: Registry, token_server: TokenServer) -> None:
    challenge = httpx.get(token_registry.url + "/v2/").headers["WWW-Authenticate"]
    assert f'realm="{token_server.service.realm}"' in challenge
    query = {"service": token_server.service.service, "scope": "repository:with/token:pull,push"}
    assert httpx.get(token_server.service.realm, params=query, auth=(USER, "wrong")).status_code == 401
    answer = httpx.get(token_server.service.realm, params=query, auth=(USER, PASSWORD))
    with httpx.Client(headers={"Authorization": f"Bearer {answer.json()['token']}"}) as client:
        push(client, token_registry.url, "with/token")
        assert client.post(f"{token_registry.url}/v2/other/repo/blobs/uploads/").status_code == 401


def test_without_faults_all_passes_through(faulty_registry: FaultyRegistry) -> None:
    with httpx.Client() as client:
        url = push(client, faulty_registry.url, "through/repo")
        assert client.get(url).content == BODY
        assert client.get(url, headers={"Range": "bytes=10-19"}).content == BODY[10:20]
        assert client.head(url).headers["Content-Length"] == str(len(BODY))
    assert [r.range for r in faulty_registry.requests if r.method == "GET"] == [None, "bytes=10-19"]
    assert faulty_registry.body_bytes("/blobs/") == len(BODY) + 10


def test_status(faulty_registry: FaultyRegistry, blob: str) -> None:
    faulty_registry.fail(Status(429, {"Retry-After": "7"}), times=1)
    refused = httpx.get(blob)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert httpx.get(blob).content == BODY


def test_cut(faulty_registry: FaultyRegistry, blob: str) -> None:
    faulty_registry.fail(Cut(after=70_000), path="/blobs/")
    with httpx.stream("GET", blob) as response:
        pieces = response.iter_raw(1000)
        received = b"".join(next(pieces) for _ in range(70))
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    assert received == BODY[:70_000]
    faulty_registry.heal()
    assert httpx.get(blob).content == BODY


@pytest.mark.parametrize("headers", [True, False])
def test_stall(faulty_registry: FaultyRegistry, blob: str, headers: bool) -> None:
    faulty_registry.fail(Stall(after=100, headers=headers))
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(blob, timeout=0.2)


def test_flipped_bit(faulty_registry: FaultyRegistry, blob: str) -> None:
    faulty_registry.fail(FlipBit(bit=8 * 100_000 + 3), times=1)
    got = httpx.get(blob).content
    assert [(i, a ^ b) for i, (a, b) in enumerate(zip(got, BODY, strict=True)) if a != b] == [(100_000, 8)]


@pytest.mark.parametrize("by", [1, 5000])
def test_a_length_that_lies(faulty_registry: FaultyRegistry, blob: str, by: int) -> None:
    faulty_registry.fail(WrongLength(by))
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(blob)


def test_an_ignored_range(faulty_registry: FaultyRegistry, blob: str) -> None:
    faulty_registry.fail(IgnoreRange())
    answer = httpx.get(blob, headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (200, BODY)


def test_slow(faulty_registry: FaultyRegistry, blob: str) -> None:
    faulty_registry.fail(Slow(1_000_000))
    began = time.monotonic()
    assert httpx.get(blob).content == BODY
    assert time.monotonic() - began > 0.15


def test_credentials_that_expire(
    basic_registry: Registry, faulty_in_front: Callable[[Registry], FaultyRegistry]
) -> None:
    faulty = faulty_in_front(basic_registry)
    with httpx.Client(auth=(USER, PASSWORD)) as client:
        url = push(client, faulty.url, "expires/repo")
        assert httpx.get(url).status_code == 401
        faulty.fail(ExpireToken(), times=1)
        refused = client.get(url)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="test"')
        assert client.get(url).status_code == 401
    other = {"Authorization": "basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    assert httpx.get(url, headers=other).content == BODY
