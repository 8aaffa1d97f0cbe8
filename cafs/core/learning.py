"""Profiles that are learned of many starts: how these are merged, and which profile of an image counts. Pure.

A start is a ``Profile`` of the layers that were seen from their first read on, which may be fewer than the
image's: of a layer that was in use before, nobody knows what this start would have read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from statistics import median_low

from cafs.core.digest import Digest
from cafs.core.profile import MAX_LAYERS, Profile, encode_profile, parse_profile
from cafs.errors import IntegrityError

MAX_CHUNKS = 8192
"""Of a start and of a learned profile: 512 MiB in chunks of 64 KiB are no start any more."""
MAX_BYTES = 256 << 10
"""Of their documents."""
KEPT_STARTS = 16
"""The newest of an image; a profile is learned of these."""
SURE_STARTS = 3
"""From so many on it needs no derived profile behind it: the first may have been anybody's look around."""

PROFILES_PATH = "/v1/profiles/"
"""On the node socket; docs/peer.md describes it."""
IMAGE_HEADER, FRAME_BYTES_HEADER = "x-cafs-image", "x-cafs-frame-bytes"
MAX_NAME_BYTES = 512


def merge_starts(starts: Sequence[Profile]) -> Profile:
    """What a start reads, by what starts have read.

    A chunk belongs to it if at least half of the starts that saw its layer read it. Order: the median of the
    places at which starts read it first. In which order the starts are given does not matter.
    """
    seen: Counter[Digest] = Counter()
    places: dict[tuple[Digest, bytes], list[int]] = {}
    for start in starts:
        seen.update(set(start.layers))
        firsts = dict.fromkeys((start.layers[layer], prefix) for layer, prefix in start.chunks)
        for place, chunk in enumerate(firsts):
            places.setdefault(chunk, []).append(place)
    # Hosts name what they like: together they may name more layers than a profile has. Most saw the image's.
    layers = tuple(sorted(sorted(seen, key=lambda layer: (-seen[layer], layer))[:MAX_LAYERS]))
    known = set(layers)
    usual = [
        chunk for chunk, found in places.items() if chunk[0] in known and 2 * len(found) >= seen[chunk[0]]
    ]
    usual.sort(key=lambda chunk: (median_low(places[chunk]), min(places[chunk]), chunk))
    numbers = {layer: number for number, layer in enumerate(layers)}
    chunks = tuple((numbers[layer], prefix) for layer, prefix in usual[:MAX_CHUNKS])
    return Profile(layers, chunks, starts=len(starts))


def choose_profile(
    attached: Profile | None, learned: Profile | None, layers: Collection[str]
) -> Profile | None:
    """By what an image is prefetched.

    Args:
        attached: To the image in its registry: recorded or derived.
        learned: Of earlier starts.
        layers: The image's, by diffID.

    Returns:
        A recorded one, or what was learned. As long as that is little, or not of all layers, the derived one
        follows behind it, and the result counts as derived.
    """
    if learned is None or not learned.chunks or (attached is not None and not attached.is_derived):
        return attached
    if learned.starts >= SURE_STARTS and set(layers) <= set(learned.layers):
        return learned
    if attached is None:
        return Profile(learned.layers, learned.chunks, is_derived=True)
    names = tuple(dict.fromkeys((*learned.layers, *attached.layers)))
    numbers = {layer: number for number, layer in enumerate(names)}
    chunks = [(layer, prefix) for layer, prefix in learned.chunks]
    chunks += [(numbers[attached.layers[layer]], prefix) for layer, prefix in attached.chunks]
    return Profile(names, tuple(dict.fromkeys(chunks)), is_derived=True)


def encode_bounded(start: Profile) -> bytes:
    """The document, of as many of its first chunks as may be told.

    Raises:
        IntegrityError: its layers alone are more than that.
    """
    chunks = start.chunks[:MAX_CHUNKS]
    while True:
        document = encode_profile(Profile(start.layers, chunks, starts=start.starts))
        if len(document) <= MAX_BYTES:
            return document
        if not chunks:
            raise IntegrityError(f"profile names {len(start.layers)} layers, too many")
        chunks = chunks[: len(chunks) * 3 // 4]


def parse_bounded(document: bytes) -> Profile:
    """A start, or a learned profile, that somebody else sent.

    Raises:
        IntegrityError: it is none, or too large.
    """
    if len(document) > MAX_BYTES:
        raise IntegrityError(f"profile has {len(document)} bytes, more than {MAX_BYTES}")
    profile = parse_profile(document)
    if len(profile.chunks) > MAX_CHUNKS:
        raise IntegrityError(f"profile names {len(profile.chunks)} chunks, more than {MAX_CHUNKS}")
    return profile
