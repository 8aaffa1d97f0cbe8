"""What is remembered of images on the disk: not all of it for ever."""

from __future__ import annotations

import os
from pathlib import Path

from cafs.fetch.known_images import KnownImage, KnownImages
from cafs.oci.artifact import IndexArtifact
from tests.support.oci import descriptor_of


def test_of_many_images_those_that_were_used_last_are_known(tmp_path: Path) -> None:
    known = KnownImages(tmp_path, kept=8)
    image = KnownImage(descriptor_of(b"an image"), IndexArtifact(None, ()))

    def knows(number: int) -> bool:
        return known.recall("docker://registry.example/app", f"v{number}", "linux/amd64") is not None

    for number in range(9):
        known.remember("docker://registry.example/app", f"v{number}", "linux/amd64", image)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    assert all(knows(number) for number in (0, 3, 5))
    known.remember("docker://registry.example/app", "v9", "linux/amd64", image)
    assert len(list(tmp_path.iterdir())) == 8
    assert all(knows(number) for number in (0, 3, 5, 9))
