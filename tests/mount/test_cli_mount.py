"""``cafs mount`` and ``cafs umount``: what a user meets, good and bad, and that nothing stays behind."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from stat import S_ISREG

import pytest
import trio

from cafs.core.digest import Digest
from cafs.core.profile import Profile, encode_profile
from cafs.core.settings import Settings
from cafs.oci.registry.repository import RegistryRepository
from tests.support.faults import FaultyRegistry, Stall, Status
from tests.support.layered import push_layers
from tests.support.mounts import mounts_below, unmounted_after
from tests.support.observe import observe
from tests.support.patience import PATIENCE_S
from tests.support.place import Place, mounted
from tests.support.program import cafs_command, run_cafs

DRIVERS = ("erofs", "fuse")
NOBODY = 65534


@pytest.fixture
def place(short_tmp_path: Path) -> Iterator[Place]:
    with unmounted_after(short_tmp_path):
        yield Place(short_tmp_path)


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_tree_is_there_and_goes_without_a_trace(place: Place, driver: str) -> None:
    with mounted(place, "--driver", driver, "--trusted") as tree:
        assert observe(tree) == place.image.expected()
        assert f"{place.source} on {place.target} ({driver})" in place.cafs("mount")
    assert place.cafs("mount") == ""


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_untrusted_image_gets_no_devices_and_no_setuid(place: Place, driver: str) -> None:
    with mounted(place, "--driver", driver):
        lines = Path("/proc/self/mounts").read_text().splitlines()
        (options,) = (line.split()[3].split(",") for line in lines if line.split()[1] == str(place.target))
        assert {"ro", "nosuid", "nodev"} <= set(options)


def forget(place: Place) -> None:
    """Drop what the kernel has cached of the tree's data, so that the next reads come from the server."""
    for path in place.stored_files() + list(place.run_dir.glob("*/fuse/layers/*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("driver", DRIVERS)
def test_killing_whoever_serves_is_not_noticed(place: Place, driver: str) -> None:
    """Server, supervisor (its server takes its place), server of the new supervisor; with the image gone."""
    expected = place.image.expected()
    options = ["--driver", driver, "--trusted", "--prefetch", "none"]
    with mounted(place, *options) as tree:
        assert observe(tree) == expected
    # Unmounting has stored what was fetched; a kill right after fetching may lose what was not stored yet.
    with mounted(place, *options) as tree:
        place.layout.rename(place.path / "moved")
        for who in ("server", "server", "supervisor", "server", "supervisor"):
            forget(place)
            before = place.state("server.pid").read_text()
            place.kill(who)
            assert observe(tree) == expected
            while place.state("server.pid").read_text() == before:
                os.sched_yield()
        assert "took over" in place.state("log").read_text()


@pytest.mark.parametrize("driver", DRIVERS)
def test_when_everything_was_killed_umount_still_clears_up(place: Place, driver: str) -> None:
    with mounted(place, "--driver", driver):
        os.kill(int(place.state("supervisor.pid").read_text()), signal.SIGSTOP)
        place.kill("server")
        place.kill("supervisor")


def test_a_mount_point_left_by_killed_processes_can_be_used_again(place: Place) -> None:
    place.cafs("mount", place.source, place.target, "--driver", "fuse")
    os.kill(int(place.state("supervisor.pid").read_text()), signal.SIGSTOP)
    place.kill("server")
    place.kill("supervisor")
    subprocess.run(["umount", "-l", place.target], check=True)
    with mounted(place, "--driver", "fuse", "--trusted") as tree:
        assert observe(tree) == place.image.expected()


def test_mount_points_that_cannot_be(place: Place) -> None:
    missing, file, full = place.path / "missing", place.path / "file", place.path / "full"
    file.touch()
    (full / "x").mkdir(parents=True)
    for point, code, message in (
        (missing, 2, "does not exist"),
        (file, 2, "is no directory"),
        (full, 2, "is not empty"),
        (Path("/proc"), 1, "in use"),
    ):
        assert message in place.cafs("mount", place.source, point, code=code)
    with mounted(place):
        assert "in use" in place.cafs("mount", place.source, place.target, code=1)
    assert "no image is mounted" in place.cafs("umount", place.target, code=2)


def test_records_that_cannot_be(place: Place) -> None:
    precious = place.path / "precious"
    precious.write_text("precious")
    other = place.path / "other.profile"
    other.write_bytes(encode_profile(Profile((Digest(f"sha256:{0:064x}"),), ())))
    for record, code, message in (
        (place.path / "missing" / "x.profile", 1, "no such directory"),
        (precious, 2, "not an access profile"),
        (other, 2, "of another image"),
    ):
        said = place.cafs("mount", place.source, place.target, "--record", record, code=code)
        assert message in said
        place.assert_clean()
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_record_that_is_spoilt_meanwhile_ends_no_server(place: Place, driver: str) -> None:
    record = place.path / "x.profile"
    with mounted(place, "--driver", driver, "--record", record) as tree:
        deadline = time.monotonic() + PATIENCE_S
        while not record.exists():  # now the server is there that reads
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(int(place.state("server.pid").read_text()), signal.SIGSTOP)  # it writes there too
        record.write_text("spoilt")
        pid = place.kill("server")
        while int(place.state("server.pid").read_text()) == pid:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while "is not recorded" not in (log := place.state("log").read_text()):
            assert "crashed" not in log
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert observe(tree).keys() == place.image.expected().keys()
    assert record.read_text() == "spoilt"


def test_umount_tells_machines_too(place: Place) -> None:
    place.cafs("mount", place.source, place.target)
    outcome = run_cafs("--json", "umount", place.target, *place.flags)
    assert (outcome.json, outcome.err) == ({"directory": str(place.target)}, "")
    place.assert_clean()


@pytest.mark.parametrize("driver", DRIVERS)
def test_sources_that_cannot_be(place: Place, driver: str) -> None:
    for source, code in ((f"oci:{place.layout}:v2", 1), ("oci:/missing", 1), ("no such:reference", 2)):
        place.cafs("mount", source, place.target, "--driver", driver, code=code)
        place.assert_clean()


def test_a_damaged_index_is_an_integrity_failure(place: Place) -> None:
    for path in (place.layout / "blobs/sha256").iterdir():
        content = path.read_bytes()
        if content.startswith(b"\x28\xb5\x2f\xfd"):  # zstd: the layer indexes
            path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    place.cafs("mount", place.source, place.target, code=3)
    place.assert_clean()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_tree_in_use_is_unmounted_by_force_only(place: Place, driver: str) -> None:
    place.cafs("mount", place.source, place.target, "--driver", driver)
    user = os.open(place.target, os.O_RDONLY | os.O_DIRECTORY)
    assert "in use" in place.cafs("umount", place.target, code=1)
    assert place.target.is_mount()
    assert os.listdir(user) != []  # noqa: PTH208  of an open directory
    with ThreadPoolExecutor(1) as pool:
        forced = pool.submit(place.cafs, "umount", place.target, "--force")
        while place.target.is_mount():
            os.sched_yield()
        os.close(user)
        forced.result()
    place.assert_clean()


def test_in_the_foreground_sigterm_unmounts(place: Place) -> None:
    command = cafs_command("mount", place.source, place.target, "--foreground", *place.flags)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "is mounted at" in process.stderr.readline()
        assert place.target.is_mount()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    place.assert_clean()


def test_a_command_killed_half_way_leaves_nothing(place: Place, faulty_registry: FaultyRegistry) -> None:
    source, _settings = pushed(place, faulty_registry, "half-way")
    faulty_registry.fail(Stall(headers=False), path="/manifests/")
    command = cafs_command("mount", source, place.target, "--driver", "fuse", *place.flags)
    command += [f"--set=insecure_registries={faulty_registry.host}"]
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            # Not by stat: nobody answers it yet.
            while not mounts_below(place.target) or not list(place.run_dir.glob("*/server.pid")):
                os.sched_yield()
            keeper = int(place.state("supervisor.pid").read_text())
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == (-number if number == signal.SIGKILL else 130)
            wait_for_end(keeper)
        place.assert_clean()


def wait_for_end(pid: int) -> None:
    """Of a process that is no child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor):
        poll = select.poll()
        poll.register(descriptor)
        assert poll.poll(20_000)


def pushed(place: Place, registry: FaultyRegistry, name: str) -> tuple[str, Settings]:
    """The image in a repository of its own, by digest."""
    settings = Settings(
        cache_dir=place.cache_dir, run_dir=place.run_dir, insecure_registries=(registry.host,)
    )

    async def push() -> str:
        repository = RegistryRepository(registry.host, name, settings)
        image = await push_layers(repository, place.layers)
        await repository.aclose()
        return f"{registry.host}/{name}@{image.digest}"

    return trio.run(push), settings


@pytest.mark.parametrize("driver", DRIVERS)
def test_failing_reads_are_eio_or_etimedout_and_pass(
    place: Place, faulty_registry: FaultyRegistry, driver: str
) -> None:
    source, _settings = pushed(place, faulty_registry, f"failing-{driver}")
    options = [f"--set=insecure_registries={faulty_registry.host}", "--set=read_deadline_s=1"]
    options += ["--set=retries=0", "--set=stall_timeout_s=1", "--prefetch=none", "--trusted"]
    place.cafs("mount", source, place.target, "--driver", driver, *options)
    try:
        expected = place.image.expected()
        path = max(place.stored_files(), key=lambda path: path.stat().st_size)
        for fault, error in ((Stall(), errno.ETIMEDOUT), (Status(404), errno.EIO)):
            faulty_registry.fail(fault, path="/blobs/")
            with pytest.raises(OSError, match=r"\[Errno") as failed:
                path.read_bytes()
            assert failed.value.errno in ({error} if driver == "fuse" else {errno.EIO})
            faulty_registry.heal()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[place.name(path)].content
        log = place.state("log").read_text()
        assert re.search(r"Read failed with ETIMEDOUT: .+ node=0x\w+", log)
        assert re.search(r"Read failed with EIO: .+ node=0x\w+", log)
        assert observe(place.target) == expected
        assert place.state("stats.json").exists()
    finally:
        place.cafs("umount", place.target)
    place.assert_clean()


@pytest.mark.parametrize("driver", DRIVERS)
def test_fifty_readers_while_the_server_is_killed_again_and_again(
    place: Place, faulty_registry: FaultyRegistry, driver: str
) -> None:
    """They read at random places; what nobody has read yet comes from the registry meanwhile."""
    source, _settings = pushed(place, faulty_registry, f"fifty-{driver}")
    options = [f"--set=insecure_registries={faulty_registry.host}", "--prefetch=none", "--trusted"]
    contents = place.image.contents()
    place.cafs("mount", source, place.target, "--driver", driver, *options)
    try:
        files = place.stored_files()
        stop = threading.Event()
        read = threading.Semaphore(0)

        def read_at_random(seed: int) -> int:
            rng, count = Random(seed), 0
            while not stop.is_set():
                path = rng.choice(files)
                content = contents[place.name(path)]
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    for _ in range(3):
                        offset, size = rng.randrange(len(content)), rng.choice((1, 4096, 300_000))
                        assert os.pread(file.fileno(), size, offset) == content[offset : offset + size]
                count += 1
                read.release()
            return count

        with ThreadPoolExecutor(50) as pool:
            readers = [pool.submit(read_at_random, seed) for seed in range(50)]
            try:
                for _ in range(12):
                    for _ in range(60):
                        assert read.acquire(timeout=PATIENCE_S)
                    place.kill("server")
            finally:
                stop.set()
            assert sum(reader.result() for reader in readers) >= 12 * 60
        assert faulty_registry.body_bytes("/blobs/") > 0
    finally:
        place.cafs("umount", place.target)
    place.assert_clean()


def sums(root: Path, prefix: list[str]) -> dict[bytes, str]:
    """What regular files hold, as somebody else reads them: nobody but who mounted it may, not even root."""
    find = ["find", root, "-type", "f", "-exec", "sha256sum", "--zero", "{}", "+"]
    found = subprocess.run([*prefix, *find], capture_output=True, check=True).stdout
    skipped = 64 + 2 + len(os.fsencode(root)) + 1
    return {line[skipped:]: line[:64].decode() for line in found.split(b"\0")[:-1]}


def test_an_ordinary_user_mounts_through_fusermount3(place: Place) -> None:
    """As nobody, but with the right to read everything: Python itself may lie in root's home."""
    device_mode = Path("/dev/fuse").stat().st_mode
    Path("/dev/fuse").chmod(0o666)  # as udev makes it; containers often have no udev
    place.path.parent.chmod(0o711)
    for path in (place.path, *place.path.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    keep = "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *keep]
    expected = {name: seen.content for name, seen in place.image.expected().items() if S_ISREG(seen.mode)}
    try:
        run_cafs("mount", place.source, place.target, *place.flags, prefix=user)
        assert f"{place.target} (fuse)" in run_cafs("mount", *place.flags, prefix=user).out
        assert sums(place.target, user) == expected
        place.kill("server")
        assert sums(place.target, user) == expected
        run_cafs("umount", place.target, *place.flags, prefix=user)
    finally:
        Path("/dev/fuse").chmod(device_mode & 0o777)
    place.assert_clean()
