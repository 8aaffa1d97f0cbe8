"""``cafs profile``: look at recorded access profiles, and attach them to images."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import trio

from cafs.cli.context import Context
from cafs.cli.opened import platform_option
from cafs.cli.units import format_count
from cafs.core.profile import MAX_BYTES, Profile, parse_profile
from cafs.core.settings import Settings
from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.fetch.profile_artifact import attach_profile, find_profile
from cafs.oci.descriptor import Platform, parse_platform
from cafs.oci.image import find_image
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference


@click.group()
def command() -> None:
    """Access profiles: in which order a start reads the chunks of an image.

    One is recorded by "cafs mount --record PROFILE", and prefetching follows the one that is attached to
    an image.
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
@platform_option
@click.pass_obj
def show(context: Context, profile: str, platform: str | None) -> None:
    """Show PROFILE: a recorded file, or an image that one is attached to."""
    if Path(profile).is_file():
        found = _load(Path(profile))
    else:
        wanted = parse_platform(platform) if platform else None
        found = trio.run(partial(_find, context.settings, profile, wanted))
    counts = {layer: len(found.of_layer(layer)) for layer in found.layers}
    lines = [f"{layer}  {format_count(count, 'chunk')}" for layer, count in counts.items()]
    context.result({"layers": counts, "chunks": len(found.chunks)}, "\n".join(lines))


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
        return (await attach_profile(repository, found.descriptor, profile, datetime.now(UTC))).digest
    finally:
        with trio.CancelScope(shield=True):
            await repository.aclose()


async def _find(settings: Settings, image: str, platform: Platform | None) -> Profile:
    reference = parse_reference(image)
    repository = open_repository(reference, settings)
    try:
        found = await find_image(repository, reference.selector, platform)
        profile = await find_profile(repository, found.descriptor)
    finally:
        with trio.CancelScope(shield=True):
            await repository.aclose()
    if profile is None:
        raise NotFoundError(f"no access profile is attached to {image}")
    return profile
