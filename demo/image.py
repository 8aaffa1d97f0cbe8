"""Builds a real image of three layers: a Debian root, Python with numpy upon it, a program upon that.

Everything comes from the Debian archive this machine's apt is configured with (``debootstrap``, then
``apt-get`` inside), layers are made by ``umoci``. The result is an OCI layout that is kept between runs:

==========  =================================================================
tag         what it is
==========  =================================================================
``v1``      Python as the release has it
``v2``      the same recipe with Debian's security updates: Python is upgraded
==========  =================================================================

Used by the demo, the benches and the tests. Needs root (debootstrap does).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.debian import choose_source, machine_codename, machine_sources
from demo.process import DemoError, run

Say = Callable[[str], None]

PROGRAM = "/app/answer.py"
ANSWER = "numpy says 42"
_PROGRAM_TEXT = """\
import numpy
matrix = numpy.array([[6.0, 0.0], [1.0, 7.0]])
print("numpy says", round(numpy.linalg.det(matrix)))
"""

# Built anew when this changes: bump it with the recipe.
_RECIPE = "1"
_RUBBISH = ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log")
APT_ENV: dict[str, str] = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    "HOME": "/root",
}


def cache_directory() -> Path:
    """Where built images are kept: ``$CAFS_CACHE``, else ``.cache`` in the checkout."""
    given = os.environ.get("CAFS_CACHE")
    return Path(given) if given else Path(__file__).resolve().parent.parent / ".cache"


def debian_python(tag: str, say: Say, cache: Path | None = None) -> Path:
    """The OCI layout that holds the image as ``tag`` (``v1`` or ``v2``); built if it is not there yet.

    Raises:
        DemoError: it cannot be built here, and why.
    """
    kept = (cache or cache_directory()) / "images" / f"debian-python-{_RECIPE}"
    kept.mkdir(parents=True, exist_ok=True)
    with _lock(kept / "lock"):
        base, layout = kept / "base", kept / tag
        if layout.exists():
            say(f"image {tag}: built before, taken from {layout}")
            return layout
        if not base.exists():
            _build_base(base, say)
        _build_upon(base, layout, tag, say)
    return layout


def compressed_bytes(layout: Path, tag: str) -> int:
    """Sum of the image's layer blobs, as a pull transfers them."""
    return sum(int(layer["size"]) for layer in image_manifest(layout, tag)["layers"])


def image_manifest(layout: Path, tag: str) -> dict[str, list[dict[str, str]]]:
    """The manifest of ``tag`` in an OCI layout that holds plain images."""
    index = json.loads((layout / "index.json").read_text())
    for descriptor in index["manifests"]:
        if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            blob = layout / "blobs" / descriptor["digest"].replace(":", "/")
            manifest: dict[str, list[dict[str, str]]] = json.loads(blob.read_text())
            return manifest
    raise DemoError(f"{layout} has no image {tag}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One builder at a time; the others wait and then find the image built."""
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextmanager
def _built_beside(layout: Path) -> Iterator[Path]:
    """A directory beside ``layout`` to build in; what is left of it is removed."""
    place = Path(tempfile.mkdtemp(prefix=f".{layout.name}-", dir=layout.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _build_base(layout: Path, say: Say) -> None:
    source = choose_source(machine_sources(), machine_codename())
    say(f"image: debootstrap of Debian {source.suite} (once; about half a minute)")
    with _built_beside(layout) as place:
        image, bundle = f"{place / 'oci'}:base", place / "bundle"
        run(["umoci", "init", "--layout", place / "oci"])
        run(["umoci", "new", "--image", image])
        run(["umoci", "unpack", "--image", image, bundle])
        root = bundle / "rootfs"
        run(["debootstrap", "--variant=minbase", source.suite, root, source.uri])
        clean_root(root)
        run(["umoci", "repack", "--image", image, bundle])
        (place / "oci").rename(layout)


def _build_upon(base: Path, layout: Path, tag: str, say: Say) -> None:
    with _built_beside(layout) as place:
        shutil.copytree(base, place / "oci", copy_function=os.link)
        (place / "oci" / "index.json").unlink()
        shutil.copyfile(base / "index.json", place / "oci" / "index.json")
        image, bundle = f"{place / 'oci'}:{tag}", place / "bundle"
        run(["umoci", "tag", "--image", f"{place / 'oci'}:base", tag])
        run(["umoci", "remove", "--image", f"{place / 'oci'}:base"])
        run(["umoci", "unpack", "--image", image, bundle])
        say(f"image {tag}: a layer with Python and numpy upon it")
        _install_python(bundle / "rootfs", with_updates=tag == "v2")
        run(["umoci", "repack", "--refresh-bundle", "--image", image, bundle])
        say(f"image {tag}: a layer with a program upon that")
        _add_program(bundle / "rootfs")
        run(["umoci", "repack", "--image", image, bundle])
        run(["umoci", "config", "--image", image, "--config.cmd", "python3", "--config.cmd", PROGRAM])
        run(["umoci", "gc", "--layout", place / "oci"])
        (place / "oci").rename(layout)


def _install_python(root: Path, *, with_updates: bool) -> None:
    updates = root / "etc/apt/sources.list.d/updates.list"
    if with_updates:
        suite = f"{machine_codename()}-security"
        updates.write_text(choose_source(machine_sources(), suite).line() + "\n")
    # The image has no network of its own: it borrows this machine's resolver while it is built.
    resolver = root / "etc/resolv.conf"
    shutil.copyfile("/etc/resolv.conf", resolver)
    apt = ["chroot", str(root), "apt-get", "-q", "-y"]
    run([*apt, "update"], env=proxied(APT_ENV))
    run([*apt, "install", "--no-install-recommends", "python3", "python3-numpy"], env=proxied(APT_ENV))
    resolver.unlink()
    updates.unlink(missing_ok=True)
    clean_root(root)


def proxied(env: dict[str, str]) -> dict[str, str]:
    """``env`` with this machine's proxies, for programs that download."""
    wanted = ("http_proxy", "https_proxy", "no_proxy")
    return env | {name: os.environ[name] for name in wanted if name in os.environ}


def _add_program(root: Path) -> None:
    program = root / PROGRAM.lstrip("/")
    program.parent.mkdir()
    program.write_text(_PROGRAM_TEXT)


def clean_root(root: Path) -> None:
    """Remove what installing packages leaves behind."""
    for pattern in _RUBBISH:
        for path in root.glob(pattern):
            if path.is_file():
                path.unlink()
