"""Real images through the whole of CAFS, beside what the usual tools make of the same images.

Converted into a real registry, mounted by both drivers, compared entry by entry with what umoci and GNU tar
unpack.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cafs.core.profile import Profile, parse_profile
from cafs.core.settings import Settings
from cafs.fetch.profile_artifact import find_profile
from cafs.oci.image import find_image
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference
from demo.image import image_manifest
from tests.support.gnu_tar import unpack_with_gnu_tar
from tests.support.images import debian_python_layout
from tests.support.observe import Seen, observe
from tests.support.program import run_cafs
from tests.support.registry import Registry
from tests.support.user import DRIVERS

pytestmark = pytest.mark.timeout(600)
"""The first test on a machine waits for the image to be built, and each for what is unpacked of it."""
REPOSITORY = "real/debian-python"
IMAGES = ("v1", "changed")
Shown = dict[bytes, Seen]
"""A tree, by path."""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian of three layers as ``v1``, and as ``changed`` with layers of umoci's on top."""
    folder = tmp_path_factory.mktemp("layout")
    shutil.copytree(debian_python_layout(), folder / "oci")
    umoci = ["umoci", "insert", "--image", f"{folder / 'oci'}:v1", "--tag", "changed"]
    steps = [
        ["--opaque", "/usr/share/perl5", "/usr/share/doc"],
        ["--whiteout", "/usr/share/zoneinfo"],
        ["--whiteout", "/etc/os-release"],
        ["/usr/lib/os-release", "/etc/os-release"],
        ["/etc/apt", "/usr/share/zoneinfo"],
    ]
    for step in steps:
        subprocess.run([*umoci, *step], check=True, timeout=120)
        umoci[3] = f"{folder / 'oci'}:changed"
    yield folder / "oci"
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="module", params=IMAGES)
def tag(request: pytest.FixtureRequest) -> str:
    """Which of the images."""
    return str(request.param)


@pytest.fixture(scope="module")
def image(docker_registry: Registry, layout: Path, tag: str) -> str:
    """The image in the registry, converted."""
    host = docker_registry.url.removeprefix("http://")
    reference = f"docker://{host}/{REPOSITORY}:{tag}"
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:{tag}", reference]
    subprocess.run(copy, check=True, timeout=120)
    run_cafs("convert", reference, timeout_s=120)
    return reference


@pytest.fixture(scope="module")
def unpacked(layout: Path, tag: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The image as umoci unpacks it."""
    folder = tmp_path_factory.mktemp("oracle")
    source = f"{layout}:{tag}"
    subprocess.run(["umoci", "raw", "unpack", "--image", source, folder / "root"], check=True, timeout=300)
    yield observe(folder / "root")
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="module")
def unpacked_by_tar(
    layout: Path, tag: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Shown, frozenset[bytes]]]:
    """The image as GNU tar unpacks it, and the directories whose time it does not tell."""
    folder = tmp_path_factory.mktemp("oracle")
    layers = image_manifest(layout, tag)["layers"]
    blobs = [layout / "blobs" / layer["digest"].replace(":", "/") for layer in layers]
    touched = unpack_with_gnu_tar(blobs, folder / "root")
    yield observe(folder / "root"), touched
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="module", params=DRIVERS)
def shown(request: pytest.FixtureRequest, image: str, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """What a mount by the driver shows."""
    target = tmp_path_factory.mktemp("tree")
    run_cafs("mount", image, target, f"--driver={request.param}")
    try:
        return observe(target)
    finally:
        run_cafs("umount", target)


def test_shows_what_umoci_unpacks(shown: Shown, unpacked: Shown) -> None:
    assert shown.keys() == unpacked.keys()
    assert [(path, shown[path], unpacked[path]) for path in shown if shown[path] != unpacked[path]] == []


@pytest.mark.parametrize(
    "tag", ["v1"], indirect=True, scope="module"
)  # of the other, see unpack_with_gnu_tar
def test_shows_what_gnu_tar_unpacks(shown: Shown, unpacked_by_tar: tuple[Shown, frozenset[bytes]]) -> None:
    oracle, touched = unpacked_by_tar
    assert shown.keys() == oracle.keys()
    alike = {
        path: replace(seen, mtime_ns=oracle[path].mtime_ns) if path in touched else seen
        for path, seen in shown.items()
    }
    assert [(path, alike[path], oracle[path]) for path in alike if alike[path] != oracle[path]] == []
    assert len(touched) < len(oracle) / 100, "nearly all is compared whole"


def test_erofs_utils_accept_what_the_kernel_mounts(image: str, tmp_path: Path) -> None:
    """``fsck.erofs`` and ``dump.erofs`` on the one file that all layers are merged into."""
    target, run_dir = tmp_path / "tree", tmp_path / "run"
    target.mkdir()
    run_cafs("mount", image, target, "--driver=erofs", f"--set=run_dir={run_dir}")
    try:
        (merged,) = run_dir.glob("*/fuse/layers/*")
        subprocess.run(["fsck.erofs", merged], check=True, capture_output=True, timeout=60)
        told = subprocess.run(
            ["dump.erofs", "-s", merged], check=True, capture_output=True, text=True, timeout=60
        )
        assert "0xE0F5E1E2" in told.stdout
    finally:
        run_cafs("umount", target, f"--set=run_dir={run_dir}")


def test_a_second_conversion_does_nothing(image: str) -> None:
    (again,) = run_cafs("convert", "--json", image).json
    assert again["converted_layers"] == 0


def test_every_byte_checks(image: str) -> None:
    run_cafs("check", image, timeout_s=120)


def test_a_program_runs_in_it_and_its_start_was_foreseen(image: str, tmp_path: Path) -> None:
    target, record = tmp_path / "tree", tmp_path / "profile"
    target.mkdir()
    run_cafs("mount", image, target, f"--record={record}")
    try:
        answer = subprocess.run(
            ["chroot", target, "/usr/bin/python3", "/app/answer.py"],
            capture_output=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
            timeout=60,
        )
    finally:
        run_cafs("umount", target)
    assert answer.stdout == b"numpy says 42\n"
    profile = attached_profile(image, tmp_path)
    assert profile.is_derived
    derived = {chunk for _, chunk in profile.chunks}
    recorded = {chunk for _, chunk in parse_profile(record.read_bytes()).chunks}
    assert len(derived & recorded) > 0.5 * len(recorded), "most of what a start reads is named"
    assert len(derived & recorded) > 0.7 * len(derived), "little else is named"


def attached_profile(image: str, folder: Path) -> Profile:
    """What prefetching follows."""
    reference, settings = parse_reference(image), Settings(cache_dir=folder, run_dir=folder)

    async def find() -> Profile | None:
        repository = open_repository(reference, settings)
        try:
            found = await find_image(repository, reference.selector, None)
            return await find_profile(repository, found.descriptor)
        finally:
            await repository.aclose()

    profile = trio.run(find)
    assert profile is not None
    return profile
