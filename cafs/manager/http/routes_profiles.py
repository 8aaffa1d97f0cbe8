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
from cafs.manager.profiles.sharing import LayersShared, SharedWith, compare_image, count_layers
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
    layer_count: int = Field(description="Layers that were seen from their first read on.")
    shared_layers: int = Field(description="Of these, layers that some other image of the list has too.")
    shared_layer_chunks: int = Field(description="Chunks that a start reads of those shared layers.")


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


class SharedTold(Told):
    """What an image has in common with another one."""

    image: str = Field(description="Digest of the other one's manifest.")
    name: str
    layers: int = Field(description="Whole layers that both have, by diffID.")
    chunks: int = Field(description="Chunks that starts of both read, in whichever layers, each once.")
    share: float = Field(description="These, of the chunks that a start of this image reads: 0 to 1.")
    frame_bytes: int = Field(description="About so many of this one's: its `frame_bytes` times `share`.")
    read: int = Field(description="Chunks that a start of the other one reads, each once.")


class Sharing(Told):
    """What an image shares with others, as far as something was learned of their starts."""

    image: str
    name: str
    read: int = Field(description="Chunks that a start reads, each once.")
    shared: int = Field(description="Of these, chunks that a start of any other image reads too.")
    share: float = Field(description="These, of all that it reads: 0 to 1.")
    frame_bytes: int = Field(description="About so many: the `frame_bytes` of its profile times `share`.")
    compared: int = Field(description="Other images that were looked at: all that something is learned of.")
    sharing: int = Field(description="Of these, images with any layer or chunk in common.")
    items: list[SharedTold] = Field(description="Those with the most chunks in common, the most first.")


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
        layers = count_layers(session, [profile.image for profile in found[:limit]])
    items = [_told(profile, layers) for profile in found[:limit]]
    return Profiles(items=items, next=items[-1].image if len(found) > limit else None)


@routes.get("/{image}", responses=declared(401, 403, 404, 422, 503))
def show(image: Image, _caller: Reader, parts: Here) -> ProfileShown:
    """What a start of one image reads, in order."""
    with parts.database.reading() as session:
        found = get_profile(session, image.removeprefix("sha256:"))
        layers = count_layers(session, [found.image])
    profile = parse_profile(found.document)
    counts = Counter(profile.layers[layer] for layer, _ in profile.chunks)
    return ProfileShown(
        **_told(found, layers).model_dump(),
        layers=[LayerRead(diff_id=layer, chunks=counts[layer]) for layer in profile.layers],
        order=[(layer, prefix.hex()) for layer, prefix in profile.chunks],
    )


@routes.get("/{image}/shared", responses=declared(401, 403, 404, 422, 503))
def show_shared(image: Image, _caller: Reader, parts: Here, limit: Limit = 100) -> Sharing:
    """What an image shares with others: whole layers, and the chunks that starts of both read.

    Images are compared by what was learned of their starts: chunks that no start reads are in no count, and
    images that were converted with other sizes of chunks have none in common.
    """
    with parts.database.reading() as session:
        profile = get_profile(session, image.removeprefix("sha256:"))
        found = compare_image(session, profile.image)
    share = found.share_of(found.shared)
    return Sharing(
        image=image,
        name=profile.name,
        read=found.read,
        shared=found.shared,
        share=share,
        frame_bytes=round(profile.frame_bytes * share),
        compared=found.compared,
        sharing=len(found.others),
        items=[_told_shared(one, found.share_of(one.chunks), profile) for one in found.others[:limit]],
    )


@routes.delete("/{image}", status_code=204, responses=declared(401, 403, 404, 422, 503))
def reset(image: Image, caller: Writer, parts: Here) -> None:
    """Forget what was learned of an image; it is learned anew of the starts to come."""
    with parts.database.writing() as session:
        found = get_profile(session, image.removeprefix("sha256:"))
        forget_profile(session, found)
        before = {"name": found.name, "starts": found.starts, "chunks": found.chunks}
        write_down(session, caller, "profile.reset", f"profile {image}", before=before)


def _told(found: LearnedProfile, layers: dict[str, LayersShared]) -> ProfileTold:
    counted = layers.get(found.image, LayersShared())
    return ProfileTold(
        image=f"sha256:{found.image}",
        name=found.name,
        starts=found.starts,
        chunks=found.chunks,
        frame_bytes=found.frame_bytes,
        learned_at=found.learned_at,
        layer_count=counted.layers,
        shared_layers=counted.shared,
        shared_layer_chunks=counted.shared_chunks,
    )


def _told_shared(one: SharedWith, share: float, profile: LearnedProfile) -> SharedTold:
    return SharedTold(
        image=f"sha256:{one.image}",
        name=one.name,
        layers=one.layers,
        chunks=one.chunks,
        share=share,
        frame_bytes=round(profile.frame_bytes * share),
        read=one.read,
    )
