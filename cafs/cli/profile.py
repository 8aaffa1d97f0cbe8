"""``cafs profile``: look at recorded access profiles, and attach them to images."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from cafs.cli.context import Context
from cafs.cli.opened import merged_tree, platform_option, with_image
from cafs.cli.units import format_count, format_size
from cafs.core.profile import MAX_BYTES, Profile, parse_profile
from cafs.core.settings import Settings
from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.fetch.learned_profiles import ask_learned
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.profile_artifact import attach_profile, find_profile, refuse_other_images
from cafs.index.browse import show_name
from cafs.oci.descriptor import Platform, parse_platform
from cafs.oci.image import find_image
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference

if TYPE_CHECKING:
    from cafs.fetch.open_image import OpenImage
    from cafs.fetch.profile_files import FileRead


@click.group()
def command() -> None:
    """Access profiles: in which order a start reads the chunks of an image.

    One is recorded by "cafs mount --record PROFILE", and prefetching follows the one that is attached to
    an image. Without one, it follows what the manager has learned of the starts of other nodes.
    """


@command.command()
@click.argument("profile", type=click.Path(path_type=Path))
@click.argument("image")
@platform_option
@click.pass_obj
def push(context: Context, profile: Path, image: str, platform: str | None) -> None:
    """Attach the recorded PROFILE to IMAGE, in its registry or layout. The image does not change."""
    recorded = _load(profile)
    wanted = parse_platform(platform) if platform else None
    digest = trio.run(partial(_push, context.settings, recorded, image, wanted))
    chunks = format_count(len(recorded.chunks), "chunk")
    context.result({"digest": digest, "chunks": len(recorded.chunks)}, f"attached {digest} ({chunks})")


@command.command()
@click.argument("profile")
@click.option("--learned", is_flag=True,
              help="What the manager has learned of its starts; this node's peer asks it.")  # fmt: skip
@click.option("--files", is_flag=True, help="Which files of the image are read, the first one first.")
@platform_option
@click.pass_obj
def show(context: Context, profile: str, *, learned: bool, files: bool, platform: str | None) -> None:
    """Show PROFILE: a recorded file, or an image that one is attached to."""
    is_file = Path(profile).is_file() and not learned
    if is_file and files:
        raise UsageError("--files belongs to an image: a recorded file does not say where its chunks lie")
    if is_file:
        found = _load(Path(profile))
    else:
        wanted = parse_platform(platform) if platform else None
        found = trio.run(partial(_find, context.settings, profile, wanted, learned=learned))
    counts = {layer: len(found.of_layer(layer)) for layer in found.layers}
    lines = [f"{layer}  {format_count(count, 'chunk')}" for layer, count in counts.items()]
    document: dict[str, Any] = {"layers": counts, "chunks": len(found.chunks)}
    if learned:
        document["starts"] = found.starts
        lines.append(f"learned of {format_count(found.starts, 'start')}")
    if files:
        read = _files_read(context, profile, platform, found)
        document["files"] = [{"path": path, "read_bytes": size} for path, size in read]
        lines += [f"{format_size(size):>12}  {path}" for path, size in read]
    context.result(document, "\n".join(lines))


def _files_read(
    context: Context, image: str, platform: str | None, profile: Profile
) -> list[tuple[str, int]]:
    from cafs.fetch.profile_files import files_read  # noqa: PLC0415 - only where files are wanted

    async def use(opened: OpenImage) -> list[FileRead]:
        return await trio.to_thread.run_sync(files_read, merged_tree(opened), opened.layers, profile)

    read = with_image(image, context.settings, platform, use)
    return [(show_name(b"/" + file.path), file.read_bytes) for file in read]


def _load(path: Path) -> Profile:
    try:
        with path.open("rb") as file:
            return parse_profile(file.read(MAX_BYTES + 1))
    except OSError as e:
        raise UsageError(f"cannot read the profile {path}: {e.strerror}") from e
    except IntegrityError as e:
        raise IntegrityError(f"{path}: {e}") from e


async def _push(settings: Settings, profile: Profile, image: str, platform: Platform | None) -> str:
    reference = parse_reference(image)
    repository = open_repository(reference, settings)
    try:
        found = await find_image(repository, reference.selector, platform)
        await refuse_other_images(repository, found, profile)
        return (await attach_profile(repository, found.descriptor, profile, datetime.now(UTC))).digest
    finally:
        with trio.CancelScope(shield=True):
            await repository.aclose()


async def _find(settings: Settings, image: str, platform: Platform | None, *, learned: bool) -> Profile:
    reference = parse_reference(image)
    repository = open_repository(reference, settings)
    try:
        found = await find_image(repository, reference.selector, platform)
        if learned:
            return await ask_learned(LocalPeer.of(settings), found.descriptor.digest)
        profile = await find_profile(repository, found.descriptor)
    finally:
        with trio.CancelScope(shield=True):
            await repository.aclose()
    if profile is None:
        raise NotFoundError(f"no access profile is attached to {image}")
    return profile
