"""What images share with each other: whole layers, and the chunks that their starts read.

The manager knows an image by what was learned of its starts, and compares that: layers by their diffIDs,
chunks by the first 8 bytes of their digests. What no start reads is in nobody's count.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import case, delete, exists, func, insert, select
from sqlalchemy.orm import Session, aliased

from cafs.core.profile import Profile
from cafs.manager.tables import LearnedDigests, LearnedLayer, LearnedProfile

_AT_ONCE = 64
"""Other images' chunks in memory: of 64 KiB each at most."""


@dataclass(frozen=True, slots=True)
class LayersShared:
    """Of one image."""

    layers: int = 0
    shared: int = 0
    """Of these, layers that some other image has too."""
    shared_chunks: int = 0
    """That a start reads of those."""


@dataclass(frozen=True, slots=True)
class SharedWith:
    """What one image has in common with another one."""

    image: str
    name: str
    layers: int
    chunks: int
    """That starts of both read."""
    read: int
    """That starts of the other one read, each once."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Of one image, with all others."""

    read: int
    """Chunks that its starts read, each once."""
    shared: int
    """Of these, chunks that starts of any other image read too."""
    compared: int
    """Other images."""
    others: list[SharedWith]
    """That share anything; those that share the most chunks first."""

    def share_of(self, chunks: int) -> float:
        """0 to 1, of what its starts read."""
        return chunks / self.read if self.read else 0.0


def keep_comparable(session: Session, image: str, learned: Profile) -> None:
    """Have it compared by what is learned of it now."""
    session.execute(delete(LearnedLayer).where(LearnedLayer.image == image))
    counts = Counter(learned.layers[layer] for layer, _ in learned.chunks)
    rows = [{"image": image, "diff_id": layer, "chunks": counts[layer]} for layer in set(learned.layers)]
    if rows:
        session.execute(insert(LearnedLayer), rows)
    session.merge(LearnedDigests(image=image, digests=pack_digests(learned)))


def pack_digests(profile: Profile) -> bytes:
    """As ``LearnedDigests`` has them. Pure."""
    return b"".join(sorted({prefix for _, prefix in profile.chunks}))


def count_layers(session: Session, images: Collection[str]) -> dict[str, LayersShared]:
    """Of these images; of which no layer is known, is left out."""
    mine, other = LearnedLayer, aliased(LearnedLayer)
    is_shared = exists().where(other.diff_id == mine.diff_id, other.image != mine.image)
    counted = select(
        mine.image,
        func.count(),
        func.sum(case((is_shared, 1), else_=0)),
        func.sum(case((is_shared, mine.chunks), else_=0)),
    )
    found = session.execute(counted.where(mine.image.in_(images)).group_by(mine.image))
    return {image: LayersShared(layers, shared, chunks) for image, layers, shared, chunks in found}


def compare_image(session: Session, image: str) -> Sharing:
    """One image with all others: reads what these read, some of them at a time."""
    kept = session.get(LearnedDigests, image)
    mine = frozenset(_unpack(kept.digests if kept is not None else b""))
    layers = _layers_with(session, image)
    alone = set(mine)
    others: list[SharedWith] = []
    compared = 0
    query = select(LearnedProfile.image, LearnedProfile.name, LearnedDigests.digests)
    query = query.join(LearnedDigests, LearnedDigests.image == LearnedProfile.image)
    query = query.where(LearnedProfile.image != image).execution_options(yield_per=_AT_ONCE)
    for other, name, digests in session.execute(query):
        compared += 1
        read = _unpack(digests)
        both = mine.intersection(read)
        alone -= both
        if both or other in layers:
            others.append(SharedWith(other, name, layers.get(other, 0), len(both), len(read)))
    others.sort(key=lambda one: (-one.chunks, -one.layers, one.image))
    return Sharing(len(mine), len(mine) - len(alone), compared, others)


def _layers_with(session: Session, image: str) -> dict[str, int]:
    mine, other = LearnedLayer, aliased(LearnedLayer)
    counted = select(other.image, func.count()).join(mine, mine.diff_id == other.diff_id)
    counted = counted.where(mine.image == image, other.image != image).group_by(other.image)
    return {row[0]: row[1] for row in session.execute(counted)}


def _unpack(digests: bytes) -> array[int]:
    found = array("Q")
    found.frombytes(digests)
    return found
