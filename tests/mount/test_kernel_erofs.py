"""The kernel and erofs-utils read what the writer wrote, and see the same tree."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.hostile import mutations, opens_and_passes, torture_index
from tests.support.kernel_erofs import kernel_complaints, kernel_mount, virtual_image
from tests.support.trees import Node, expected, read_mounted, tree_specs, write_tree

GOOD, DATA = torture_index()
NAMES = 267


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(tree_specs())
def test_any_tree_comes_back_through_the_kernel(spec: Node) -> None:
    with tempfile.TemporaryDirectory() as directory:
        index, image = Path(directory) / "index", Path(directory) / "image"
        data = write_tree(spec, index)
        image.write_bytes(virtual_image(index, data))
        subprocess.run(["fsck.erofs", image], check=True, capture_output=True)
        with kernel_mount(image) as root:
            assert read_mounted(root) == expected(spec)


def test_erofs_utils_accept_the_image(tmp_path: Path) -> None:
    index, image = tmp_path / "index", tmp_path / "image"
    index.write_bytes(GOOD)
    image.write_bytes(virtual_image(index, DATA))
    checked = subprocess.run(["fsck.erofs", "-d9", image], check=True, capture_output=True, text=True)
    assert "no errors" in (checked.stdout + checked.stderr).lower()
    dumped = subprocess.run(["dump.erofs", "-s", "-S", image], check=True, capture_output=True, text=True)
    assert "0xE0F5E1E2" in dumped.stdout
    shown = subprocess.run(
        ["dump.erofs", "--path=/a/plain", image], check=True, capture_output=True, text=True
    )
    assert "Size: 5000" in shown.stdout


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(mutations(len(GOOD) - 64, start=4096), min_size=1, max_size=6))
def test_what_the_check_accepts_the_kernel_walks_without_complaint(
    damage: list[Callable[[bytearray], None]],
) -> None:
    content = bytearray(GOOD)
    for change in damage:
        change(content)
    with tempfile.TemporaryDirectory() as directory:
        index, image = Path(directory) / "index", Path(directory) / "image"
        index.write_bytes(content)
        assume(opens_and_passes(index))
        image.write_bytes(virtual_image(index, DATA))
        before = set(kernel_complaints())
        with kernel_mount(image) as root:
            assert len(read_mounted(root)) == NAMES
        assert set(kernel_complaints()) <= before
