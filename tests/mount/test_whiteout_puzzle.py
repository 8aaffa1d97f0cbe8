"""Ten layers that hide, replace and bring back each other's files, beside what umoci unpacks of them."""

from __future__ import annotations

import hashlib
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.observe import observe
from tests.support.tars import make_tar, member
from tests.support.user import DRIVERS, User, layout_repository, push_layers_as

DIRECTORY, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Member = tuple[tarfile.TarInfo, bytes]
LEVELS = 10


class Puzzle:
    """Layers as tars. What the layers so far show is kept to know what there is to hide."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._kinds: dict[str, str] = {"": "directory"}
        self._time = 1_600_000_000
        self._hidden: set[str] = set()
        self._last = False
        self.layers = []
        for level in range(LEVELS):
            # What unpacking makes of a link whose other names are hidden later, no stack of layers can show.
            self._last = level == LEVELS - 1
            self.layers.append(make_tar(*self._layer()))

    def _layer(self) -> list[Member]:
        members: list[Member] = []
        mine: set[str] = set()
        self._hidden = set()
        below = dict(self._kinds)
        for path in self._rng.sample(sorted(below), min(len(below), 3)):
            if path:
                members += self._hide(path, mine)
        for _ in range(16):
            members += self._add(mine, below)
        return members

    def _hide(self, path: str, mine: set[str]) -> list[Member]:
        if path not in self._kinds or any(path.startswith(f"{name}/") for name in mine):
            return []
        parent, _, name = path.rpartition("/")
        if self._kinds[path] == "directory" and self._rng.random() < 0.4:
            self._forget(path, itself=False)
            mine.add(path)
            # umoci takes an opaque directory that has nothing in it away, which the specification does not.
            self._kinds[f"{path}/kept"] = "file"
            mine.add(f"{path}/kept")
            kept = member(f"{path}/kept", mode=0o600, mtime=self._now())
            return [self._directory(path), member(f"{path}/.wh..wh..opq"), kept]
        self._forget(path)
        self._hidden.add(path)
        # The parent is not described here: it keeps what the layers below say of it.
        return [member(f"{parent}/.wh.{name}" if parent else f".wh.{name}")]

    def _add(self, mine: set[str], below: dict[str, str]) -> list[Member]:
        parent = self._rng.choice(sorted(p for p, kind in self._kinds.items() if kind == "directory"))
        path = f"{parent}/{self._rng.choice('abcd')}" if parent else self._rng.choice("abcd")
        if path in mine or path.count("/") > 3:
            return []
        # What this layer has or hides below ``path`` needs it to stay the directory that it is.
        if any(name.startswith(f"{path}/") for name in mine | self._hidden):
            return []
        mine.add(path)
        kind = self._rng.choice(["directory", "directory", "file", "link", "hard"])
        # Files of the layers below that are still to be seen: a link to them has to find them there.
        files = sorted(p for p, k in self._kinds.items() if k == "file" and below.get(p) == "file")
        if kind == "hard" and not (self._last and [p for p in files if p not in mine]):
            kind = "file"
        target = self._rng.choice([p for p in files if p not in mine] or [""])
        if not (kind == "directory" and self._kinds.get(path) == "directory"):
            self._forget(path)
        if kind == "hard" and target not in self._kinds:  # it was below ``path``
            kind = "file"
        self._kinds[path] = "file" if kind == "hard" else kind
        if kind == "directory":
            return [self._directory(path)]
        if kind == "link":
            return [member(path, LINK, linkname=self._rng.choice("abcd"), mtime=self._now())]
        if kind == "hard":
            mine.add(target)  # it has to stay what it is
            return [member(path, HARD, linkname=target)]
        content = self._rng.randbytes(self._rng.choice([0, 30, 9000]))
        return [member(path, content=content, mode=0o640, mtime=self._now())]

    def _directory(self, path: str) -> Member:
        return member(path, DIRECTORY, mode=self._rng.choice([0o755, 0o1777]), mtime=self._now())

    def _now(self) -> int:
        self._time += 1
        return self._time

    def _forget(self, path: str, *, itself: bool = True) -> None:
        gone = {p for p in self._kinds if p.startswith(f"{path}/")} | ({path} if itself else set())
        for name in gone:
            self._kinds.pop(name, None)


@pytest.fixture
def user(short_tmp_path: Path) -> Iterator[User]:
    user = User(short_tmp_path)
    yield user
    user.clean_up()


@pytest.mark.parametrize("seed", range(4))
def test_ten_levels_of_whiteouts_are_as_umoci_unpacks_them(user: User, seed: int) -> None:
    root = member("", DIRECTORY, mode=0o755, mtime=1)
    root[0].name = "./"
    layers = [make_tar(root), *Puzzle(seed).layers]
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    push_layers_as(layout_repository(user), layers, diff_ids)
    unpacked = user.path / "unpacked"
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{user.layout}:v1", unpacked], check=True)
    expected = observe(unpacked)
    assert len(expected) > 10
    user.cafs("convert", user.image)
    for driver in DRIVERS:
        with user.mounted(user.image, f"--driver={driver}") as tree:
            found = observe(tree)
        assert found.keys() == expected.keys()
        assert [(path, found[path], expected[path]) for path in found if found[path] != expected[path]] == []
