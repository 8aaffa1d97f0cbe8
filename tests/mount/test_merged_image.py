"""The layers of an image made into one EROFS: the kernel and erofs-utils see what unpacking would leave."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cafs.index.layer_index import LayerIndex
from cafs.index.merge_layers import write_merged
from cafs.index.merged_index import MergedIndex
from tests.support.kernel_erofs import kernel_complaints, kernel_mount
from tests.support.observe import observe
from tests.support.random_layers import RandomImage


def write_whole(directory: Path, layers: int) -> Path:
    """The merged virtual image of layers that ``tests.support.layered`` wrote, as one file."""
    merged, image = directory / "merged", directory / "image"
    indexes = [LayerIndex.open(directory / f"{number}.index") for number in range(layers)]
    with merged.open("x+b") as file:
        write_merged(file.fileno(), indexes)
    index = MergedIndex.open(merged)
    index.verify()
    data = [(directory / f"{number}.blob").read_bytes() for number in range(layers)]
    image.write_bytes(bytes(index.metadata) + b"".join(data))
    return image


@pytest.mark.parametrize(
    ("seed", "layers", "entries"),
    [(11, 1, 200), (12, 2, 300), (13, 3, 600), (14, 12, 60), (15, 130, 3), (16, 4, 1500)],
)
def test_the_kernel_sees_what_was_put_in(tmp_path: Path, seed: int, layers: int, entries: int) -> None:
    made = RandomImage(seed, layers, entries)
    made.write(tmp_path)
    image = write_whole(tmp_path, layers)
    before = set(kernel_complaints())
    checked = subprocess.run(["fsck.erofs", image], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    with kernel_mount(image) as root:
        found, expected = observe(Path(root.decode())), made.expected()
    assert [
        (path, found.get(path), expected.get(path))
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    ][:5] == []
    assert set(kernel_complaints()) <= before
