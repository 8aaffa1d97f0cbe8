"""Layers of ``umoci insert``, which end without padding and without blocks of zeros."""

from __future__ import annotations

import subprocess

from cafs.core.digest import sha256_digest
from tests.support.tars import make_tar, member
from tests.support.user import User, layout_repository, push_layers_as


def test_what_umoci_inserts_and_removes(user: User) -> None:
    layer = make_tar(member("old", content=b"old"))
    push_layers_as(layout_repository(user), [layer], [sha256_digest(layer)])
    added = user.path / "added"
    added.write_bytes(b"seven..")
    for arguments in ([str(added), "/new"], ["--whiteout", "/old"]):
        subprocess.run(["umoci", "insert", "--image", f"{user.layout}:v1", *arguments], check=True)
    user.cafs("convert", user.image)
    user.cafs("check", user.image)
    with user.mounted(user.image) as mounted:
        assert {path.name: path.read_bytes() for path in mounted.iterdir()} == {"new": b"seven.."}
