"""``cafs explain``: why reads of a mount failed."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.errors import CafsError, NotFoundError, UsageError
from cafs.fetch.explain import (
    MAX_FILES,
    FailedChunk,
    chunks_of_file,
    describe_all,
    files_of_chunks,
    group_failures,
)
from cafs.fetch.journal import FILE_NAME, Failure, read_journal
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.node.mount_state import MountDirectory, MountedImage


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_obj
def command(context: Context, path: Path) -> None:
    """Tell why reads below PATH failed.

    PATH is a mount point (all failures are told) or a file in it (those of its chunks are told).
    """
    mount, inside = find_mount(context.settings.run_dir, path)
    failures = read_journal(mount.path / FILE_NAME)
    image = mount.read_image()
    if inside != Path():
        failures = _of_file(failures, image, inside)
    chunks = list(_with_files(failures, image))
    document = [
        {
            "files": chunk.files,
            "more_files": chunk.more_files,
            "failures": [asdict(f) for f in chunk.failures],
        }
        for chunk in chunks
    ]
    context.result(document, describe_all(chunks))


def find_mount(run_dir: Path, path: Path) -> tuple[MountDirectory, Path]:
    """The mount that ``path`` lies in, and where in it.

    Raises:
        UsageError: there is no mount of ours.
    """
    # As written first: following links asks the mount itself, which may be the one that does not answer.
    for follow in (os.path.abspath, os.path.realpath):
        whole = Path(follow(path))
        for target in (whole, *whole.parents):
            mount = MountDirectory.of(run_dir, target)
            try:
                mount.read_request()
            except NotFoundError:
                continue
            return mount, whole.relative_to(target)
    raise UsageError(f"{path} is not below a mount point of cafs (or it was unmounted)")


def _of_file(failures: list[Failure], image: MountedImage | None, inside: Path) -> list[Failure]:
    """The failures of one file's chunks: the topmost layer that has the file counts."""
    for layer in reversed(image.layers if image else ()):
        with LayerIndex.open(layer.index) as index:
            nid = _lookup(ErofsReader(index.metadata, index.virtual_bytes), inside)
            if nid is not None:
                chunks = chunks_of_file(index, nid)
                return [f for f in failures if f.layer == layer.diff_id and f.chunk in chunks]
    raise UsageError(f"the image has no file /{inside}")


def _lookup(reader: ErofsReader, path: Path) -> int | None:
    nid: int | None = reader.root_nid
    for name in path.parts:
        if nid is None or not reader.inode(nid).is_directory:
            return None
        nid = reader.lookup(nid, os.fsencode(name))
    return nid


def _with_files(failures: list[Failure], image: MountedImage | None) -> list[FailedChunk]:
    groups = group_failures(failures)
    files: dict[tuple[str, str], list[str]] = {}
    for layer in image.layers if image else ():
        chunks = [chunk for diff_id, chunk in groups if diff_id == layer.diff_id]
        if not chunks:
            continue
        try:
            with LayerIndex.open(layer.index) as index:
                found = files_of_chunks(index, chunks)
        except CafsError:
            continue  # the failures are told all the same
        files.update(((layer.diff_id, chunk), paths) for chunk, paths in found.items())
    return [
        FailedChunk(
            tuple(group),
            tuple(files.get(key, [])[:MAX_FILES]),
            max(len(files.get(key, [])) - MAX_FILES, 0),
        )
        for key, group in groups.items()
    ]
