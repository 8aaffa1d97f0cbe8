"""Learned profiles in the database."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from statistics import median_low
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, load_only

from cafs.core.learning import KEPT_STARTS, MAX_BYTES, encode_bounded, merge_starts, parse_bounded
from cafs.core.profile import Profile
from cafs.errors import NotFoundError
from cafs.manager.profiles.sharing import keep_comparable
from cafs.manager.tables import LearnedProfile, Start

MOST_IMAGES = 2000
"""More are not kept: those of which nothing was told for longest go."""
_SHOWN = (
    LearnedProfile.image,
    LearnedProfile.name,
    LearnedProfile.starts,
    LearnedProfile.chunks,
    LearnedProfile.frame_bytes,
    LearnedProfile.learned_at,
)


def find_profiles(session: Session, images: Collection[str]) -> dict[str, LearnedProfile]:
    """Those of these images that something is learned of."""
    found = session.scalars(select(LearnedProfile).where(LearnedProfile.image.in_(images)))
    return {profile.image: profile for profile in found}


def list_profiles(session: Session, after: str, limit: int) -> list[LearnedProfile]:
    """In the order of their images, behind ``after``; without their documents."""
    query = select(LearnedProfile).options(load_only(*_SHOWN)).where(LearnedProfile.image > after)
    return list(session.scalars(query.order_by(LearnedProfile.image).limit(limit)))


def get_profile(session: Session, image: str) -> LearnedProfile:
    """What is learned of an image.

    Raises:
        NotFoundError: nothing.
    """
    found = session.get(LearnedProfile, image)
    if found is None:
        raise NotFoundError("nothing is learned of this image")
    return found


def forget_profile(session: Session, profile: LearnedProfile) -> None:
    """It is learned anew, of starts that are told from now on."""
    session.execute(delete(Start).where(Start.image == profile.image))
    session.delete(profile)


def add_start(
    session: Session, image: str, host_id: str, *, name: str, frame_bytes: int, start: Profile
) -> LearnedProfile:
    """One more start of an image; learns its profile anew.

    Args:
        session: Of a transaction.
        image: SHA-256 of its manifest, in hex.
        host_id: Who tells it. What it told before of this image counts no more.
        name: Of the image, for people.
        frame_bytes: That the start read.
        start: What it read.
    """
    now = datetime.now(UTC)
    profile = _held(session, image, name, now)
    ahead = update(Start).where(Start.image == image, Start.at > now)  # the clock was set back
    session.execute(ahead.values(at=now - timedelta(seconds=1)))
    packed = zlib.compress(encode_bounded(start))
    session.merge(Start(image=image, host_id=host_id, at=now, frame_bytes=frame_bytes, document=packed))
    session.flush()
    kept = _newest(session, image)
    merged = merge_starts([parse_bounded(_unpack(each.document)) for each in kept])
    profile.name, profile.learned_at = name, now
    profile.starts, profile.chunks = merged.starts, len(merged.chunks)
    profile.frame_bytes = median_low(each.frame_bytes for each in kept)
    profile.document = encode_bounded(merged)
    profile.etag = sha256(profile.document).digest()
    keep_comparable(session, image, merged)
    _forget_most_idle(session)
    return profile


def _held(session: Session, image: str, name: str, now: datetime) -> LearnedProfile:
    """The image's row, made if need be, for this transaction alone."""
    kind = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    nothing = {"starts": 0, "chunks": 0, "frame_bytes": 0, "document": b"", "etag": b""}
    made: Any = kind.insert(LearnedProfile).values(image=image, name=name, learned_at=now, **nothing)
    session.execute(made.on_conflict_do_nothing())
    return session.get_one(LearnedProfile, image, with_for_update=True)


def _newest(session: Session, image: str) -> list[Start]:
    newest_first = select(Start).where(Start.image == image).order_by(Start.at.desc(), Start.host_id)
    found = list(session.scalars(newest_first))
    for old in found[KEPT_STARTS:]:
        session.delete(old)
    return found[:KEPT_STARTS]


def _unpack(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, MAX_BYTES)


def _forget_most_idle(session: Session) -> None:
    count = session.scalar(select(func.count()).select_from(LearnedProfile)) or 0
    if count > MOST_IMAGES:
        oldest = select(LearnedProfile.image).order_by(LearnedProfile.learned_at).limit(count - MOST_IMAGES)
        gone = list(session.scalars(oldest))
        session.execute(delete(Start).where(Start.image.in_(gone)))
        session.execute(delete(LearnedProfile).where(LearnedProfile.image.in_(gone)))
