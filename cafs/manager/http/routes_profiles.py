"""What was learned of the starts of images: looked at, and forgotten."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from cafs.core.profile import parse_profile
from cafs.manager.http.caller import needs
from cafs.manager.http.models import Limit, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.profiles.catalogue import forget_profile, get_profile, list_profiles
from cafs.manager.tables import LearnedProfile
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Role, Scope

routes = APIRouter(prefix="/profiles", tags=["profiles"])
Reader = Annotated[Caller, needs(Role.VIEWER, Scope.PROFILES_READ)]
Writer = Annotated[Caller, needs(Role.OPERATOR, Scope.PROFILES_WRITE)]
Image = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", description="Digest of the image's manifest.")]


class ProfileTold(Told):
    """What was learned of the starts of an image."""

    image: str = Field(description="Digest of its manifest.")
    name: str = Field(description="By which it was mounted last, as a peer told it.")
    starts: int = Field(description="Of which it was learned: the newest, one of each host.")
    chunks: int = Field(description="That a start reads.")
    frame_bytes: int = Field(description="Compressed, that starts read: the median.")
    learned_at: datetime = Field(description="When the newest start was told.")


class LayerRead(Told):
    """How much of a layer a start reads."""

    diff_id: str
    chunks: int


class ProfileShown(ProfileTold):
    """The same, with what is read."""

    layers: list[LayerRead] = Field(description="Those that were seen from their first read on.")
    order: list[tuple[int, str]] = Field(
        description="Of each chunk, in the order of first reads: number into `layers`, and the first 8 bytes"
        " of its digest, in hex."
    )


class Profiles(Told):
    """Some of many."""

    items: list[ProfileTold]
    next: str | None = Field(description="`after` of the next page; null: these were the last.")


@routes.get("", responses=declared(401, 403, 422, 503))
def list_some(
    _caller: Reader,
    parts: Here,
    after: Annotated[
        str, Query(pattern="^(sha256:[0-9a-f]{64})?$", description="Begin behind this image.")
    ] = "",
    limit: Limit = 100,
) -> Profiles:
    """All images of which something was learned, in the order of their digests."""
    with parts.database.reading() as session:
        found = list_profiles(session, after.removeprefix("sha256:"), limit + 1)
    items = [_told(profile) for profile in found[:limit]]
    return Profiles(items=items, next=items[-1].image if len(found) > limit else None)


@routes.get("/{image}", responses=declared(401, 403, 404, 422, 503))
def show(image: Image, _caller: Reader, parts: Here) -> ProfileShown:
    """What a start of one image reads, in order."""
    with parts.database.reading() as session:
        found = get_profile(session, image.removeprefix("sha256:"))
    profile = parse_profile(found.document)
    counts = Counter(profile.layers[layer] for layer, _ in profile.chunks)
    return ProfileShown(
        **_told(found).model_dump(),
        layers=[LayerRead(diff_id=layer, chunks=counts[layer]) for layer in profile.layers],
        order=[(layer, prefix.hex()) for layer, prefix in profile.chunks],
    )


@routes.delete("/{image}", status_code=204, responses=declared(401, 403, 404, 422, 503))
def reset(image: Image, caller: Writer, parts: Here) -> None:
    """Forget what was learned of an image; it is learned anew of the starts to come."""
    with parts.database.writing() as session:
        found = get_profile(session, image.removeprefix("sha256:"))
        forget_profile(session, found)
        before = {"name": found.name, "starts": found.starts, "chunks": found.chunks}
        write_down(session, caller, "profile.reset", f"profile {image}", before=before)


def _told(found: LearnedProfile) -> ProfileTold:
    return ProfileTold(
        image=f"sha256:{found.image}",
        name=found.name,
        starts=found.starts,
        chunks=found.chunks,
        frame_bytes=found.frame_bytes,
        learned_at=found.learned_at,
    )
