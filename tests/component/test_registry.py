"""The registry client against a real registry that wants credentials, and against one that misbehaves."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cafs.core.settings import Settings
from cafs.core.source import BlobRef, Span
from cafs.errors import AuthError, CafsError, DeadlineError, IntegrityError, ProtocolError, RemoteError
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import OCI_INDEX, OCI_MANIFEST
from cafs.oci.referrers import referrers_tag
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.repository import copy_blob, read_blob
from tests.support.faults import (
    Cut,
    ExpireToken,
    FaultyRegistry,
    FlipBit,
    IgnoreRange,
    OneRange,
    Stall,
    Status,
    WrongLength,
)
from tests.support.logs import ExpectedLogs
from tests.support.oci import attach_artifact, descriptor_of, log_in, push_bytes, push_image
from tests.support.registry import PASSWORD, USER, Registry, start_registry
from tests.support.tokens import TokenServer

SETTINGS = Settings(
    cache_dir=Path("unused"), run_dir=Path("unused"), retries=0, stall_timeout_s=1.0, read_deadline_s=3.0
)
Opener = Callable[..., RegistryRepository]
CONTENT = os.urandom(300_000)


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    """Opens repositories that are closed at the end."""
    repositories: list[RegistryRepository] = []

    def open_one(host: str, name: str = "", **changes: object) -> RegistryRepository:
        name = name or f"registry/t{uuid.uuid4().hex}"
        repositories.append(RegistryRepository(host, name, replace(SETTINGS, **changes)))
        return repositories[-1]

    yield open_one
    for repository in repositories:
        await repository.aclose()


async def test_basic_authentication(
    basic_registry: Registry, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, monkeypatch, basic_registry.host)
    repository = opened(basic_registry.host)
    blob = await push_bytes(repository, CONTENT)
    assert await read_blob(repository, blob, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("kind", ["basic_registry", "token_registry"])
async def test_wrong_and_missing_credentials(
    request: pytest.FixtureRequest, kind: str, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(AuthError, match="docker login"):
        await opened(registry.host).resolve("v1")
    log_in(tmp_path, monkeypatch, registry.host, "not the password")
    with pytest.raises(AuthError) as error:
        await opened(registry.host).resolve("v1")
    assert "not the password" not in str(error.value)
    assert registry.host in str(error.value)
    assert "\n" not in str(error.value)


async def test_a_credential_helper(
    basic_registry: Registry, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"ServerURL": basic_registry.host, "Username": USER, "Secret": PASSWORD})
    _helper(
        tmp_path,
        monkeypatch,
        f"""test "$1" = get && test "$(cat)" = {basic_registry.host} && echo '{answer}'""",
    )
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {basic_registry.host: "cafs-test"}}))
    blob = await push_bytes(opened(basic_registry.host), b"by helper")
    assert blob.size == 9


def _helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "docker-credential-cafs-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo secret; exit 3", "failed with exit code 3"),
        ("echo nonsense", "not valid JSON"),
        ("echo credentials not found in native keychain; exit 1", "docker login"),
    ],
)
async def test_helpers_that_fail(
    basic_registry: Registry,
    opened: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    says: str,
) -> None:
    _helper(tmp_path, monkeypatch, script)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "cafs-test"}))
    with pytest.raises(CafsError, match=says) as error:
        await opened(basic_registry.host).resolve("v1")
    assert "secret" not in str(error.value)


async def test_one_token_serves_many(
    token_registry: Registry,
    token_server: TokenServer,
    opened: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(tmp_path, monkeypatch, token_registry.host)
    repository = opened(token_registry.host)
    blob = await push_bytes(repository, CONTENT)
    before = len(token_server.issued)
    async with trio.open_nursery() as nursery:
        for offset in range(0, 250_000, 10_000):
            nursery.start_soon(repository.read_range, blob, offset, 10_000)
    assert len(token_server.issued) - before <= 1


@pytest.mark.parametrize("kind", ["basic_registry", "token_registry"])
async def test_credentials_that_expire_in_the_middle(
    request: pytest.FixtureRequest,
    kind: str,
    faulty_in_front: Callable[[Registry], FaultyRegistry],
    opened: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty = faulty_in_front(request.getfixturevalue(kind))
    log_in(tmp_path, monkeypatch, faulty.host)
    repository = opened(faulty.host)
    blob = await push_bytes(repository, CONTENT)
    assert await repository.read_range(blob, 0, 100) == CONTENT[:100]
    faulty.fail(ExpireToken(), path="/blobs/", times=1)
    if kind == "basic_registry":
        with pytest.raises(AuthError, match="log in again"):
            await repository.read_range(blob, 100, 100)
        faulty.heal()  # what a new password comes to
    assert await repository.read_range(blob, 100, 100) == CONTENT[100:200]


async def test_mounting_a_blob_from_another_repository(
    token_registry: Registry, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, monkeypatch, token_registry.host)
    origin, target = opened(token_registry.host), opened(token_registry.host)
    blob = await push_bytes(origin, CONTENT)
    assert await target.mount_blob(blob, origin)
    assert await target.has_blob(blob)
    assert not await target.mount_blob(BlobRef(descriptor_of(b"absent").digest, 6), origin)
    await copy_blob(origin, opened(token_registry.host), blob, tmp_path)


@pytest.fixture
async def there(
    docker_registry: Registry, faulty_registry: FaultyRegistry, opened: Opener
) -> RegistryRepository:
    """A repository that holds CONTENT, through the faulty proxy."""
    name = f"registry/t{uuid.uuid4().hex}"
    await push_bytes(opened(docker_registry.host, name), CONTENT)
    return opened(faulty_registry.host, name)


BLOB = descriptor_of(CONTENT)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Status(500), RemoteError, "500"),
        (Status(503, {"Retry-After": "9"}), RemoteError, "503"),
        (Status(429, {"Retry-After": "9"}), RemoteError, "429"),
        (Status(416), RemoteError, "416"),
        (Status(206, {"Content-Range": "bytes 5-14/300000"}, b"x" * 10), ProtocolError, "answered with 5-14"),
        (Status(206, {"Content-Range": "bytes 0-9/99"}, b"x" * 10), ProtocolError, "99 bytes there"),
        (Status(206, {}, b"x" * 10), ProtocolError, "Content-Range"),
        (Status(206, {"Content-Range": "bytes 0-9/300000"}, b"x" * 9), ProtocolError, "9 bytes only"),
        (Status(206, {"Content-Range": "bytes 0-9/300000"}, b"x" * 99), ProtocolError, "more bytes"),
        (Status(307, {"Location": "http://127.0.0.1:1/x"}), RemoteError, "connect"),
        (Status(307, {"Location": "ftp://x"}), ProtocolError, "no address"),
        (Status(307), ProtocolError, "no address"),
        (Status(307, {"Location": "/v2/"}), ProtocolError, "another length"),
        (Cut(3), ProtocolError, "bytes 0-9"),
        (Stall(3), DeadlineError, "silent for 1 s"),
        (Stall(headers=False), DeadlineError, "silent for 1 s"),
    ],
)
async def test_ranges_of_a_registry_that_misbehaves(
    there: RegistryRepository,
    faulty_registry: FaultyRegistry,
    fault: Any,
    kind: type[CafsError],
    says: str,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs.allow("ignores range requests")
    faulty_registry.fail(fault, path="/blobs/")
    with pytest.raises(kind, match=says) as error:
        await there.read_range(BLOB, 0, 10)
    assert there.name in str(error.value)
    assert "\n" not in str(error.value)
    if isinstance(fault, Status) and "Retry-After" in fault.headers:
        assert isinstance(error.value, RemoteError)
        assert error.value.retry_after_s == 9
    faulty_registry.heal()
    assert await there.read_range(BLOB, 0, 10) == CONTENT[:10]


async def test_a_registry_that_ignores_ranges(
    there: RegistryRepository, faulty_registry: FaultyRegistry, expected_logs: ExpectedLogs
) -> None:
    faulty_registry.fail(IgnoreRange(), path="/blobs/")
    expected_logs.expect("ignores range requests")
    for offset, length in ((0, 10), (150_000, 60_000), (299_990, 10)):
        assert await there.read_range(BLOB, offset, length) == CONTENT[offset : offset + length]


SPANS = [Span(0, 10), Span(200_000, 90_000), Span(100_000, 1)]
PARTS = [CONTENT[offset : offset + length] for offset, length in SPANS]


async def test_several_ranges_come_in_one_answer(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    assert await there.read_ranges(BLOB, SPANS) == PARTS
    assert [request.range for request in faulty_registry.settled()] == [
        "bytes=0-9,200000-289999,100000-100000"
    ]


@pytest.mark.parametrize("fault", [IgnoreRange(), OneRange(), Status(416), Status(400)])
async def test_a_registry_that_answers_one_range_only(
    there: RegistryRepository, faulty_registry: FaultyRegistry, fault: IgnoreRange | OneRange | Status
) -> None:
    faulty_registry.fail(fault, path="/blobs/", times=1)
    for _ in range(2):
        assert await there.read_ranges(BLOB, SPANS) == PARTS
    assert there.most_ranges == 1
    asked = [request.range or "" for request in faulty_registry.settled()]
    assert ["," in one for one in asked[:7]] == [True] + 6 * [False]


async def test_a_part_that_is_wrong_is_an_error(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    faulty_registry.fail(Cut(60_000), path="/blobs/", times=1)
    with pytest.raises(RemoteError):
        await there.read_ranges(BLOB, SPANS)
    assert await there.read_ranges(BLOB, SPANS) == PARTS, "the next request is as good as the first"


async def test_ranges_outside_a_blob_are_never_asked_for(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    for offset, length in ((-1, 5), (0, 300_001), (300_000, 1)):
        with pytest.raises(IntegrityError):
            await there.read_range(BLOB, offset, length)
    assert await there.read_range(BLOB, 5, 0) == b""
    assert faulty_registry.settled() == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (FlipBit(1234), IntegrityError),
        (Cut(200_000), ProtocolError),
        (WrongLength(10), ProtocolError),
        (Stall(200_000), DeadlineError),
        (Status(200, {}, CONTENT + b"more"), ProtocolError),
        (Status(200, {}, CONTENT[:-1]), ProtocolError),
        (Status(502), RemoteError),
    ],
)
async def test_whole_blobs_of_a_registry_that_misbehaves(
    there: RegistryRepository, faulty_registry: FaultyRegistry, fault: Any, kind: type[CafsError]
) -> None:
    faulty_registry.fail(fault, path="/blobs/")
    with pytest.raises(kind):
        await read_blob(there, BLOB, len(CONTENT))


async def test_a_broken_download_goes_on_where_it_broke(
    there: RegistryRepository, faulty_registry: FaultyRegistry, opened: Opener
) -> None:
    patient = opened(there.host, there.repository, retries=3)
    faulty_registry.fail(Cut(100_000), path="/blobs/", times=2)
    assert await read_blob(patient, BLOB, len(CONTENT)) == CONTENT
    assert faulty_registry.body_bytes("/blobs/") <= len(CONTENT) + 10


async def test_failures_that_pass_are_waited_out(
    there: RegistryRepository, faulty_registry: FaultyRegistry, opened: Opener
) -> None:
    patient = opened(there.host, there.repository, retries=3)
    faulty_registry.fail(Status(503, {"Retry-After": "0"}), method=None, times=2)
    assert await patient.has_blob(BLOB)
    image = await push_image(patient, [b"x"])
    faulty_registry.fail(Status(500), method="PUT", times=1)
    blob = await push_bytes(patient, b"pushed at the second try")
    assert await patient.has_blob(blob)
    faulty_registry.fail(Status(404), path="manifests", times=1)
    with pytest.raises(CafsError, match="404"):
        await patient.manifest(image)


@pytest.mark.parametrize(
    "fault",
    [
        Status(200, {"Content-Type": OCI_MANIFEST}, b"{}"),
        Status(200, {"Content-Type": OCI_MANIFEST}, b" " * (5 << 20)),
        FlipBit(77),
        Stall(10),
        Cut(10),
    ],
)
async def test_manifests_that_lie(
    there: RegistryRepository, faulty_registry: FaultyRegistry, fault: Any
) -> None:
    image = await push_image(there, [b"x"], "v1")
    faulty_registry.fail(fault, path="/manifests/")
    with pytest.raises((IntegrityError, RemoteError)):
        await there.manifest(image)
    huge = Descriptor(image.digest, 1 << 40, OCI_MANIFEST)
    with pytest.raises(IntegrityError, match="more than is allowed"):
        await there.manifest(huge)


async def test_a_manifest_is_asked_for_once(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    image = await push_image(there, [b"x"], "v1")
    faulty_registry.forget()
    assert await there.resolve("v1") == image
    content = await there.manifest(image)
    assert await there.resolve(image.digest) == image
    assert await there.manifest(image) == content
    assert [request.method for request in faulty_registry.settled()] == ["GET", "GET"]
    faulty_registry.fail(Status(200, {"Content-Type": OCI_MANIFEST}, b"{}"), path="/manifests/sha256:")
    with pytest.raises(IntegrityError, match=r"manifest sha256:"):
        await there.resolve(image.digest)


async def test_two_writers_do_not_lose_each_others_referrers(
    there: RegistryRepository, opened: Opener
) -> None:
    image = await push_image(there, [b"x"], "v1")
    other = opened(there.host, there.repository)
    first = await attach_artifact(there, image, "kind/x", b"one")
    second = await attach_artifact(other, image, "kind/x", b"two")
    found = {d.digest for d in await there.referrers(image, "kind/x")}
    assert found == {first.digest, second.digest}
    tag = await there.resolve(referrers_tag(image.digest))
    assert len(json.loads(await there.manifest(tag))["manifests"]) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
async def test_a_blob_that_may_not_be_mounted_is_sent(
    there: RegistryRepository, faulty_registry: FaultyRegistry, opened: Opener, tmp_path: Path, status: int
) -> None:
    blob = await push_bytes(there, CONTENT)
    target = opened(there.host)
    faulty_registry.fail(Status(status), method="POST", path=r"/blobs/uploads/\?mount=")
    await copy_blob(there, target, blob, tmp_path)
    assert await target.has_blob(blob)


async def test_mounting_a_blob_is_tried_again(
    there: RegistryRepository, faulty_registry: FaultyRegistry, opened: Opener
) -> None:
    blob = await push_bytes(there, CONTENT)
    faulty_registry.fail(Status(503), method="POST", path=r"/blobs/uploads/\?mount=", times=1)
    assert await opened(there.host, retries=1).mount_blob(blob, there)


async def test_what_others_wrote_under_a_referrers_tag_stays(there: RegistryRepository) -> None:
    image = await push_image(there, [b"x"], "v1")
    await attach_artifact(there, image, "kind/x", b"one")
    tag = referrers_tag(image.digest)
    index = json.loads(await there.manifest(await there.resolve(tag)))
    index["annotations"] = {"com.example": "theirs"}
    index["manifests"][0] |= {"data": "eA==", "com.example": "theirs"}
    await there.push_manifest(json.dumps(index).encode(), OCI_INDEX, tag)
    await attach_artifact(there, image, "kind/x", b"two")
    changed = json.loads(await there.manifest(await there.resolve(tag)))
    assert changed["annotations"] == index["annotations"]
    assert changed["manifests"][0] == index["manifests"][0]
    assert len(changed["manifests"]) == 2


async def test_redirects_carry_no_credentials_to_another_host(
    basic_registry: Registry,
    docker_registry: Registry,
    faulty_in_front: Callable[[Registry], FaultyRegistry],
    opened: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front, elsewhere = faulty_in_front(basic_registry), faulty_in_front(docker_registry)
    log_in(tmp_path, monkeypatch, front.host)
    repository = opened(front.host)
    blob = await push_bytes(repository, CONTENT)
    await push_bytes(opened(docker_registry.host, repository.repository), CONTENT)
    path = f"/v2/{repository.repository}/blobs/{blob.digest}"
    front.fail(Status(307, {"Location": f"{elsewhere.url}{path}"}), path="/blobs/")
    front.forget()
    assert await repository.read_range(blob, 10, 10) == CONTENT[10:20]
    assert await repository.read_range(blob, 20, 10) == CONTENT[20:30]
    assert len(front.settled()) == 1, "the second read goes straight to where the first one was sent"
    elsewhere.fail(Status(403), path="/blobs/", times=1)
    assert await repository.read_range(blob, 30, 10) == CONTENT[30:40]
    assert len(front.settled()) == 2, "when that address is no longer good, the registry is asked again"
    assert {request.authorization for request in elsewhere.settled()} == {None}
    assert None not in {request.authorization for request in front.settled()}


async def test_nobody_listens(opened: Opener) -> None:
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:1/registry") as error:
        await opened("127.0.0.1:1").resolve("v1")
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 5


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cafs test registry")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return paths


async def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener) -> None:
    certificate, key = _certificate(tmp_path)
    monkeypatch.setenv("REGISTRY_HTTP_TLS_CERTIFICATE", str(certificate))
    monkeypatch.setenv("REGISTRY_HTTP_TLS_KEY", str(key))
    registry = start_registry(tmp_path / "registry")
    try:
        with pytest.raises(RemoteError, match="certificate verify failed"):
            await push_bytes(opened(registry.host), CONTENT)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = opened(registry.host)
        blob = await push_bytes(trusting, CONTENT)
        assert await trusting.read_range(blob, 5, 5) == CONTENT[5:10]
    finally:
        registry.stop()


async def test_a_cancelled_read_leaves_the_repository_usable(
    there: RegistryRepository, faulty_registry: FaultyRegistry
) -> None:
    faulty_registry.fail(Stall(10), path="/blobs/", times=1)
    with trio.move_on_after(0.3) as scope:
        await there.read_range(BLOB, 0, 1000)
    assert scope.cancelled_caught
    assert await there.read_range(BLOB, 0, 1000) == CONTENT[:1000]
