"""Builds layers and keeps them: each is what one step changed, as a directory and as a gzip tar.

A step runs in an overlay over the layers below, so that a layer is the overlay's upper directory; in the tar,
its whiteouts become what the OCI image specification has (``.wh.NAME``, ``.wh..wh..opq``). A layer is found
again by the steps that led to it, so images with the same first steps share these layers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.images.steps import Step
from demo.image import Say
from demo.process import run

# Built anew when this changes: bump it with what is done to every layer.
_RECIPE = "1"
_TAR = (
    "--create",
    "--sort=name",
    "--numeric-owner",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime",
)
_XATTRS = ("--xattrs", "--xattrs-include=security.*", "--xattrs-include=user.*")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as an image's manifest and configuration describe it."""

    digest: str
    diff_id: str
    size: int
    """Of the compressed blob."""
    plain_bytes: int
    """Of its tar."""
    told: str


@dataclass(frozen=True, slots=True)
class Built:
    """A layer and where it lies."""

    layer: Layer
    blob: Path
    tree: Path


def build_layers(steps: Sequence[Step], kept: Path, say: Say) -> list[Built]:
    """All layers of an image, lowest first; those that are not in ``kept`` are built.

    Raises:
        DemoError: a step failed.
    """
    built: list[Built] = []
    name = _RECIPE
    for step in steps:
        name = hashlib.sha256(f"{name}\n{step!r}".encode()).hexdigest()[:16]
        path = kept / "layers" / name
        if not path.exists():
            say(f"layer: {step.told[:100]}")
            _build(step, [below.tree for below in built], path, kept / "apt")
        layer = Layer(**json.loads((path / "layer.json").read_text()))
        built.append(Built(layer, path / "blob", path / "tree"))
    return built


def _build(step: Step, below: list[Path], path: Path, apt: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    try:
        tree = place / "tree"
        tree.mkdir(mode=0o755)
        with merged(below, place, upper=tree) as root:
            step.apply(root, apt)
        layer = _pack(place, tree, step.told)
        (place / "layer.json").write_text(json.dumps(asdict(layer), indent=1))
        place.rename(path)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def merged(below: Sequence[Path], place: Path, upper: Path) -> Iterator[Path]:
    """A writable view of the trees ``below``, lowest first; what is written lands in ``upper``."""
    if not below:
        yield upper
        return
    root, work = place / "root", place / "work"
    root.mkdir()
    work.mkdir()
    lower = ":".join(str(tree) for tree in reversed(below))
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off"
    run(["mount", "-t", "overlay", "-o", options, "overlay", root])
    try:
        yield root
    finally:
        run(["umount", root])
        shutil.rmtree(work, ignore_errors=True)
        root.rmdir()


def _pack(place: Path, tree: Path, told: str) -> Layer:
    plain, blob = place / "layer.tar", place / "blob"
    whiteouts = _lay_out_whiteouts(tree, place / "whiteouts")
    (place / "hidden").write_text("".join(f"./{name}\n" for name in whiteouts.replaced))
    (place / "marks").write_text("".join(f"./{name}\n" for name in whiteouts.marks))
    words = [*_TAR, *_XATTRS, "--no-wildcards", "--anchored", f"--exclude-from={place / 'hidden'}"]
    words += ["-C", str(place / "whiteouts"), f"--files-from={place / 'marks'}", "-C", str(tree), "."]
    run(["tar", *words, "-f", plain], timeout_s=900)
    diff_id, plain_bytes = _digest(plain), plain.stat().st_size
    # Level 6 is what Docker and BuildKit write.
    run(["gzip", "-6", "--no-name", plain], timeout_s=900)
    plain.with_name("layer.tar.gz").rename(blob)
    shutil.rmtree(place / "whiteouts")
    return Layer(_digest(blob), diff_id, blob.stat().st_size, plain_bytes, told)


@dataclass(frozen=True, slots=True)
class _Whiteouts:
    marks: list[str]
    """Names in the tar that hide something."""
    replaced: list[str]
    """overlayfs's own whiteouts, which stay out of the tar."""


def _lay_out_whiteouts(tree: Path, place: Path) -> _Whiteouts:
    found = _Whiteouts([], [])
    place.mkdir()
    for folder, folders, files in os.walk(tree):
        inside = Path(folder).relative_to(tree)
        for name in files:
            status = (Path(folder) / name).lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                found.replaced.append(str(inside / name))
                found.marks.append(str(inside / f".wh.{name}"))
        for name in folders:
            path = Path(folder) / name
            if not path.is_symlink() and "trusted.overlay.opaque" in os.listxattr(path):
                found.marks.append(str(inside / name / ".wh..wh..opq"))
    for mark in found.marks:
        (place / mark).parent.mkdir(parents=True, exist_ok=True)
        (place / mark).touch()
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
