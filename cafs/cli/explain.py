"""``cafs explain``: why reads of a mount failed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.errors import CafsError, NotFoundError, UsageError
from cafs.fetch.explain import (
    MAX_FILES,
    FailedChunk,
    chunks_below,
    describe_all,
    files_of_chunks,
    group_failures,
)
from cafs.fetch.journal import FILE_NAME, Failure, read_journal
from cafs.index.browse import resolve
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import MergedTree
from cafs.index.reader import ErofsReader
from cafs.node.mount_state import MountDirectory, MountedImage
from cafs.node.mountd.shown import find_shown


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_obj
def command(context: Context, path: Path) -> None:
    """Tell why reads below PATH failed.

    PATH is a mount point (all failures are told) or a file or directory in it (those of its files are
    told); or the run directory of a mount server, or something in a layer of it that is mounted.
    """
    journal, image, inside = _find(context.settings.run_dir, path)
    failures = read_journal(journal)
    if inside != Path():
        failures = _below(failures, image, inside)
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


def _find(run_dir: Path, path: Path) -> tuple[Path, MountedImage | None, Path]:
    """The journal, what is mounted, and where in it ``path`` lies."""
    shown = find_shown(Path(os.path.abspath(path)))  # noqa: PTH100  resolving asks the mount itself
    if shown is not None:
        return shown.journal, shown.layers, shown.inside
    mount, inside = find_mount(run_dir, path)
    return mount.path / FILE_NAME, mount.read_image(), inside


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


def _below(failures: list[Failure], image: MountedImage | None, inside: Path) -> list[Failure]:
    """The failures of what is seen at ``inside`` and below it."""
    layers = image.layers if image else ()
    with ExitStack() as stack:
        indexes = [stack.enter_context(LayerIndex.open(layer.index)) for layer in layers]
        try:
            tree = MergedTree([ErofsReader(index.metadata, index.virtual_bytes) for index in indexes])
            top = resolve(tree, os.fsencode(inside), follow_last=True)
        except (NotFoundError, ValueError) as e:
            raise UsageError(f"the image has no file /{inside}") from e
        chunks = {(layers[number].diff_id, chunk) for number, chunk in chunks_below(indexes, tree, top)}
    return [failure for failure in failures if (failure.layer, failure.chunk) in chunks]


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
