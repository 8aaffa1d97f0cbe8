"""An image of one layer: mounted without overlayfs when nothing in it hides names, else with it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from cafs.errors import IntegrityError
from cafs.index.check import check_index
from cafs.index.header import FLAG_HIDES
from cafs.index.layer_index import LayerIndex
from tests.support.program import run_cafs
from tests.support.tars import convert_tar, make_tar, member

PLAIN = make_tar(member("d", tarfile.DIRTYPE, mode=0o755), member("d/f", content=b"x" * 5000))
HIDING = make_tar(member("d", tarfile.DIRTYPE, mode=0o755), member("d/.wh.gone"), member("d/f", content=b"y"))


def filesystem_at(target: Path) -> str:
    lines = Path("/proc/mounts").read_text().splitlines()
    return next(words[2] for words in map(str.split, lines) if words[1] == str(target))


@pytest.mark.parametrize(("archive", "kind"), [(PLAIN, "erofs"), (HIDING, "overlay")])
def test_one_layer(tmp_path: Path, archive: bytes, kind: str) -> None:
    tar, target = tmp_path / "layer.tar", tmp_path / "tree"
    tar.write_bytes(archive)
    target.mkdir()
    run_cafs("convert", f"tar:{tar}", f"oci:{tmp_path}/layout:t")
    run_cafs("mount", f"oci:{tmp_path}/layout:t", target, "--driver=erofs")
    try:
        assert filesystem_at(target) == kind
        assert (target / "d/f").read_bytes()
        assert not (target / "d/gone").exists()
    finally:
        run_cafs("umount", target)


def test_a_layer_that_hides_and_denies_it_is_refused(tmp_path: Path) -> None:
    lying = bytearray(convert_tar(HIDING, tmp_path).index_file)
    assert lying[12] & FLAG_HIDES
    lying[12] &= ~FLAG_HIDES
    path = tmp_path / "lying"
    path.write_bytes(lying)
    with LayerIndex.open(path) as index, pytest.raises(IntegrityError, match="whiteouts"):
        check_index(index)
