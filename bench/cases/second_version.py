"""What a second version of an image costs, when the first one's chunks serve as dictionary."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.place import Place
from bench.report import Result, Row
from bench.trees import debian_tree
from demo.image import debian_python
from demo.process import run


def run_case(place: Place) -> Result:
    first, second = debian_python("v1", place.say), debian_python("v2", place.say)
    source, made_first = place.convert(f"oci:{first}:v1", "first")
    _, made = place.convert(f"oci:{second}:v2", "second", ["--chunk-dict", source])
    known = dict(made_first.blobs)
    new = sum(size for digest, size in made.blobs if digest not in known)
    changed = _changed_files(debian_tree("v1"), debian_tree("v2"))
    changed_plain = sum(path.stat().st_size for path in changed)
    listing = place.path / "changed"
    listing.write_bytes(b"".join(bytes(path) + b"\0" for path in changed))
    packed = place.path / "changed.tar.zst"
    run(["sh", "-c", 'tar -cf - --null -T "$0" | zstd -q -3 -o "$1"', listing, packed])
    changed_packed = packed.stat().st_size
    return Result(
        "second_version",
        "A second version of an image",
        "The same recipe built twice: with Debian's release, and with its security updates (Python is"
        " upgraded). *New bytes*: chunk blobs and layer indexes, as stored in the registry, of the second"
        " image that the first does not have. *Really changed bytes*: the files of the second image whose"
        f" content is in no file of the first ({len(changed):,} files, {changed_plain / 1e6:.1f} MB), as"
        " one `tar | zstd -3`.",
        (
            Row(
                "new bytes",
                f"{new / 1e6:.2f} MB",
                f"really changed {changed_packed / 1e6:.2f} MB",
                f"{new / changed_packed:.2f}",
                "at most 2.00",
                new <= 2 * changed_packed,
            ),
        ),
    )


def _changed_files(old: Path, new: Path) -> list[Path]:
    """Files of ``new`` with a content that no file of ``old`` has, each content once."""
    known = set(_contents(old))
    return [path for content, path in _contents(new).items() if content not in known]


def _contents(tree: Path) -> dict[bytes, Path]:
    files = (path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink())
    return {hashlib.sha256(path.read_bytes()).digest(): path for path in files}
