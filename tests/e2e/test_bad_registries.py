"""Registries that are away, slow, busy or silent, or take back their word: convert, mount, read."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cafs.oci.registry.repository import RegistryRepository
from tests.support.faults import Cut, ExpireToken, Fault, FaultyRegistry, FlipBit, Slow, Stall, Status
from tests.support.oci import log_in
from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command
from tests.support.registry import Registry
from tests.support.tars import make_tar, member
from tests.support.user import DRIVERS, QUICK, User, plain_http, push_layers_as

FILES = {f"file{n}": random.Random(n).randbytes(300_000) for n in range(6)}
LAYER = make_tar(*(member(name, content=content, mode=0o644) for name, content in FILES.items()))


@dataclass(frozen=True)
class Remote:
    """An image in a registry behind a proxy that misbehaves to order."""

    registry: FaultyRegistry
    name: str

    @property
    def image(self) -> str:
        """Its reference."""
        return f"{self.registry.host}/{self.name}:v1"


@pytest.fixture
def remote(user: User, faulty_registry: FaultyRegistry) -> Remote:
    """Not converted yet."""
    return pushed(user, faulty_registry)


def pushed(user: User, registry: FaultyRegistry, layers: Sequence[bytes] = (LAYER,)) -> Remote:
    """The image in a repository of its own."""
    user.settings = (*QUICK, f"insecure_registries={registry.host}")
    remote = Remote(registry, f"bad/t{uuid.uuid4().hex}")
    repository = RegistryRepository(registry.host, remote.name, plain_http(user, registry.host))
    push_layers_as(repository, layers, ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers])
    return remote


def test_a_layer_that_does_not_come_keeps_no_other_waiting(
    user: User, faulty_registry: FaultyRegistry
) -> None:
    other = make_tar(member("other", content=b"of the second layer", mode=0o644))
    remote = pushed(user, faulty_registry, [LAYER, other])
    first, second = (f"/blobs/sha256:{hashlib.sha256(layer).hexdigest()}" for layer in (LAYER, other))
    remote.registry.fail(Stall(1000), path=first, times=1)
    remote.registry.forget()
    user.cafs("convert", remote.image)
    answered = [request.path for request in remote.registry.requests if request.method == "GET"]
    assert next(path for path in answered if path.endswith((first, second))).endswith(second)


_SILENT = "silent|nothing|in time|answer"


@pytest.mark.parametrize(
    ("path", "fault", "says"),
    [
        ("/manifests/", Status(503), "503"),
        ("/manifests/", Stall(headers=False), _SILENT),
        ("/blobs/", Status(429, {"Retry-After": "1"}), "429"),
        ("/blobs/", Status(403), "403"),
        ("/blobs/", Stall(20), _SILENT),
        ("/blobs/", Cut(20), "clos|broke|cut|ended|short|lost"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_convert_and_mount_tell_what_the_registry_did(
    user: User, remote: Remote, path: str, fault: Fault, says: str
) -> None:
    remote.registry.fail(fault, path=path)
    began = time.monotonic()
    user.cafs("convert", remote.image, code=1, says=says)
    user.assert_no_work_left()
    assert time.monotonic() - began < 30
    remote.registry.heal()
    user.cafs("mount", remote.image, user.target, code=1, says="not converted")
    user.cafs("convert", remote.image)
    remote.registry.fail(fault, path=path)
    began = time.monotonic()
    user.cafs("mount", remote.image, user.target, code=1, says=says)
    assert time.monotonic() - began < 30
    user.assert_nothing_mounted()
    began = time.monotonic()
    outcome = user.cafs("check", remote.image, code=1, says=says)
    assert "sound" not in outcome.out
    assert "damaged" not in outcome.out
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_registry_that_takes_nothing_more_leaves_the_image_as_it_was(
    user: User, remote: Remote, method: str
) -> None:
    remote.registry.fail(Status(503), method=method)
    user.cafs("convert", remote.image, code=1, says="503")
    user.assert_no_work_left()
    remote.registry.heal()
    user.cafs("mount", remote.image, user.target, code=1, says="not converted")
    user.cafs("convert", remote.image)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_that_ends_before_the_manifest_is_there_leaves_none(
    user: User, remote: Remote, number: signal.Signals
) -> None:
    """Nor anything else; what one that was killed had no time to remove goes with the next."""
    remote.registry.fail(Stall(headers=False), path="/blobs/uploads/", method="POST")
    settings, user.settings = user.settings, (*user.settings, "stall_timeout_s=60", "read_deadline_s=60")
    command = [*cafs_command("convert", remote.image), *user.flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(user.cache.glob("convert/*/*.zst")):
            os.sched_yield()
        process.send_signal(number)
        _, told = process.communicate(timeout=PATIENCE_S)
    user.settings = settings
    remote.registry.heal()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130, told
        assert "Traceback" not in told
        user.assert_no_work_left()
    user.cafs("mount", remote.image, user.target, code=1, says="not converted")
    user.cafs("convert", remote.image)
    user.assert_no_work_left()
    user.cafs("check", remote.image)


@pytest.mark.parametrize("after", [0, 1_500_000], ids=["before the first byte", "in the middle"])
def test_ctrl_c_while_a_layer_is_downloaded(user: User, remote: Remote, after: int) -> None:
    layer = hashlib.sha256(LAYER).hexdigest()
    remote.registry.fail(Stall(after), path=f"/blobs/sha256:{layer}")
    user.settings = (*user.settings, "stall_timeout_s=60", "read_deadline_s=60")
    command = [*cafs_command("convert", remote.image), *user.flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(user.cache.glob("convert/*/*.chunks")):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    user.assert_no_work_left()
    remote.registry.heal()
    user.cafs("mount", remote.image, user.target, code=1, says="not converted")
    user.cafs("convert", remote.image)


@pytest.mark.parametrize(
    "fault",
    [Status(503), Status(429, {"Retry-After": "0"}), Cut(9_000), Stall(9_000), FlipBit(999)],
    ids=repr,
)
def test_failures_that_pass_are_waited_out(user: User, remote: Remote, fault: Fault) -> None:
    user.settings = (*user.settings, "retries=3")
    if not isinstance(fault, FlipBit):  # a whole layer that is wrong is not asked for twice
        remote.registry.fail(fault, path="/blobs/", times=1)
    user.cafs("convert", remote.image)
    with user.mounted(remote.image) as tree:
        remote.registry.fail(fault, path="/blobs/", times=2)
        assert whole(tree)


def test_a_layer_spoilt_on_its_way_is_refused(user: User, remote: Remote) -> None:
    remote.registry.fail(FlipBit(8 * len(LAYER) // 2), path="/blobs/" + f"sha256:{_sha(LAYER)}")
    user.cafs("convert", remote.image, code=3, says=_sha(LAYER)[:12])
    user.assert_no_work_left()
    remote.registry.heal()
    user.cafs("mount", remote.image, user.target, code=1, says="not converted")


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_spoilt_on_its_way_is_never_shown(user: User, remote: Remote, driver: str) -> None:
    """Every answer is wrong: index, chunks. In the registry all is well, as the end shows."""
    user.cafs("convert", remote.image)
    remote.registry.fail(FlipBit(999), path="/blobs/")
    user.cafs("mount", remote.image, user.target, code=3, warns="passing over")
    user.assert_nothing_mounted()
    user.cafs("check", remote.image, code=3, warns="passing over")
    assert user.cafs("cat", remote.image, "file1", code=3, warns="passing over").out == ""
    assert list(user.cache.glob("index/sha256*")) == []
    remote.registry.heal()
    with user.mounted(remote.image, f"--driver={driver}") as tree:
        remote.registry.fail(FlipBit(999), path="/blobs/")
        with pytest.raises(OSError, match=r"\[Errno") as failed:
            (tree / "file1").read_bytes()
        assert failed.value.errno == errno.EIO
        assert re.search("failed with EIO: .*(digest|zstd)", user.log()), user.log()
        remote.registry.heal()
        assert whole(tree)


def test_nobody_listens(user: User) -> None:
    source = "127.0.0.1:1/repository:v1"
    user.cafs("convert", source, code=1, says="127.0.0.1:1")
    user.cafs("mount", source, user.target, code=1, says="127.0.0.1:1")
    user.cafs("check", source, code=1, says="127.0.0.1:1")
    user.assert_nothing_mounted()
    user.assert_no_work_left()


def test_a_slow_registry_is_only_slow(user: User, remote: Remote) -> None:
    user.settings = (*user.settings, "read_deadline_s=30")
    remote.registry.fail(Slow(1_500_000), path="/blobs/")
    user.cafs("convert", remote.image)
    with user.mounted(remote.image) as tree:
        assert whole(tree)


@pytest.mark.parametrize(
    ("driver", "fault", "cause"),
    [
        ("erofs", Status(503), "503"),
        ("fuse", Status(429, {"Retry-After": "1"}), "429"),
        ("fuse", Stall(5), ""),
        ("fuse", Cut(5), ""),
    ],
    ids=["erofs-503", "429", "stall", "cut"],
)
def test_reads_fail_while_it_is_away_and_succeed_again(
    user: User, remote: Remote, driver: str, fault: Fault, cause: str
) -> None:
    """The errno, the cause in the log, an end in time, and a mount that lives on."""
    user.cafs("convert", remote.image)
    with user.mounted(remote.image, f"--driver={driver}") as tree:
        remote.registry.fail(fault, path="/blobs/")
        began = time.monotonic()
        with pytest.raises(OSError, match=r"\[Errno") as failed:
            (tree / "file1").read_bytes()
        assert failed.value.errno in {errno.EIO, errno.ETIMEDOUT}
        assert time.monotonic() - began < 40
        assert re.search(f"failed with E(IO|TIMEDOUT): .*{cause}", user.log()), user.log()
        assert {path.name for path in tree.iterdir()} == set(FILES), "the rest of the mount is well"
        remote.registry.heal()
        assert whole(tree)
        assert remote.registry.host in user.cafs("explain", tree).out


@pytest.fixture(params=["basic_registry", "token_registry"])
def guarded(
    request: pytest.FixtureRequest,
    user: User,
    faulty_in_front: Callable[[Registry], FaultyRegistry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Remote:
    """A converted image that only those with the password may read."""
    registry = faulty_in_front(request.getfixturevalue(request.param))
    log_in(tmp_path, monkeypatch, registry.host)
    remote = pushed(user, registry)
    user.cafs("convert", remote.image)
    return remote


@pytest.mark.parametrize("driver", DRIVERS)
def test_credentials_that_expire_in_the_middle_of_a_mount(
    user: User, guarded: Remote, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_, last = FILES
    with user.mounted(guarded.image, f"--driver={driver}") as tree:
        assert (tree / first).read_bytes() == FILES[first]
        log_in(tmp_path, monkeypatch, guarded.registry.host, "no longer the password")
        guarded.registry.fail(ExpireToken(), path="/blobs/")
        with pytest.raises(OSError, match=r"\[Errno") as failed:
            (tree / last).read_bytes()
        assert failed.value.errno == errno.EIO
        assert re.search("failed with EIO: .*(log in|refused|401)", user.log())
        assert (tree / first).read_bytes() == FILES[first], "what is here needs no credentials"
        guarded.registry.heal()
        log_in(tmp_path, monkeypatch, guarded.registry.host)
        assert whole(tree), "after a new login, without a new mount"


def test_wrong_credentials_are_told(
    user: User, guarded: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, monkeypatch, guarded.registry.host, "wrong")
    image, target = guarded.image, str(user.target)
    for command in (["convert", image], ["mount", image, target], ["check", image]):
        user.cafs(*command, code=1, says="log in|credentials|refused")
    user.assert_nothing_mounted()


def whole(tree: Path) -> bool:
    """Whether every file is there with its bytes."""
    return {path.name: path.read_bytes() for path in tree.iterdir()} == FILES


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
