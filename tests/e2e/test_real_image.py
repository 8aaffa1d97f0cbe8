"""A real image through the whole of CAFS, beside what the usual tools make of the same image.

Converted into a real registry, mounted by both drivers, compared entry by entry with umoci's unpacking.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import debian_python_layout
from tests.support.observe import Seen, observe
from tests.support.program import run_cafs
from tests.support.registry import Registry

REPOSITORY = "real/debian-python"


@pytest.fixture(scope="module")
def image(docker_registry: Registry) -> str:
    """The image in the registry, converted."""
    host = docker_registry.url.removeprefix("http://")
    reference = f"docker://{host}/{REPOSITORY}:v1"
    source = f"oci:{debian_python_layout()}:v1"
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, reference], check=True, timeout=120
    )
    run_cafs("convert", reference, timeout_s=120)
    return reference


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bytes, Seen]]:
    """The image as umoci unpacks it."""
    folder = tmp_path_factory.mktemp("oracle")
    source = f"{debian_python_layout()}:v1"
    subprocess.run(["umoci", "raw", "unpack", "--image", source, folder / "root"], check=True, timeout=300)
    yield observe(folder / "root")
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.mark.parametrize("driver", ["erofs", "fuse"])
def test_shows_what_umoci_unpacks(
    image: str, unpacked: dict[bytes, Seen], driver: str, tmp_path: Path
) -> None:
    target = tmp_path / "tree"
    target.mkdir()
    run_cafs("mount", image, target, f"--driver={driver}")
    try:
        found = observe(target)
    finally:
        run_cafs("umount", target)
    assert found.keys() == unpacked.keys()
    different = [
        (path, found[path], unpacked[path]) for path in sorted(found) if found[path] != unpacked[path]
    ]
    assert different == []


def test_a_second_conversion_does_nothing(image: str) -> None:
    (again,) = run_cafs("convert", "--json", image).json
    assert again["converted_layers"] == 0


def test_every_byte_checks(image: str) -> None:
    run_cafs("check", image, timeout_s=120)


def test_a_program_runs_in_it(image: str, tmp_path: Path) -> None:
    target = tmp_path / "tree"
    target.mkdir()
    run_cafs("mount", image, target)
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
