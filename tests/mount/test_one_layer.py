"""An image of one layer: mounted as it is when nothing in it hides names, else without what hides."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(("archive", "merged"), [(PLAIN, False), (HIDING, True)])
def test_one_layer(tmp_path: Path, archive: bytes, merged: bool) -> None:
    tar, target = tmp_path / "layer.tar", tmp_path / "tree"
    tar.write_bytes(archive)
    target.mkdir()
    run_cafs("convert", f"tar:{tar}", f"oci:{tmp_path}/layout:t")
    state = run_cafs("mount", f"oci:{tmp_path}/layout:t", target, "--driver=erofs", "--json")
    try:
        assert (target / "d/f").read_bytes()
        assert [path.name for path in (target / "d").iterdir()] == ["f"]
        image = json.loads((Path(state.json["state"]) / "image.json").read_text())
        assert (image["merged"] is not None) == merged
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
