"""Pods with user namespaces: who a container's root is on the host, and who changes owners of files. Pure.

containerd tells the maps by labels, in two cases. Where it knows that we are capable of ``remap-ids`` (2.x,
by its configuration), the mounts that we answer are to map the layers, and nothing is copied. Elsewhere it
has made a copy of the image before (since 1.7), that belongs to the pod's users, and prepares the container
on top of it: mapped once more, the files would be somebody else's. 1.6 passes the labels only if it is asked
to (``ctr run --remap-labels``), which wants a snapshotter that shifts ids itself.

Sources: containerd, internal/userns/idmap.go and client/snapshotter_opts_unix.go. A map is
``CONTAINER:HOST:SIZE[,...]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cafs.errors import UsageError

UID_MAP = "containerd.io/snapshot/uidmapping"
GID_MAP = "containerd.io/snapshot/gidmapping"
_ENTRY = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)
_INVALID_ID = 2**32 - 1


def mapped_root(labels: Mapping[str, str]) -> tuple[int, int] | None:
    """The host's (uid, gid) for root of the container, or None if nothing is mapped.

    Raises:
        UsageError: a map is malformed or has no root.
    """
    if UID_MAP not in labels and GID_MAP not in labels:
        return None
    return _root(labels.get(UID_MAP, "")), _root(labels.get(GID_MAP, ""))


def needs_mapping(root: tuple[int, int] | None, below: tuple[int, int] | None) -> bool:
    """Whether the mounts of a snapshot have to map ids.

    Args:
        root: As ``mapped_root`` says.
        below: Owner of the root directory of the snapshot below it; None where there is none, and of a lazy
            layer, whose owners nobody can change.
    """
    # Where root stays root a copy does not show. Kubernetes has no such pods.
    return root is not None and (below != root or root == (0, 0))


def id_maps(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The options of a mount that has containerd (2.x) map ids."""
    pairs = (("uidmap", UID_MAP), ("gidmap", GID_MAP))
    return tuple(f"{option}={labels[label]}" for option, label in pairs if label in labels)


def _root(text: str) -> int:
    if not text:
        return 0
    roots = [outside for inside, outside, size in map(_entry, text.split(",")) if inside == 0 and size > 0]
    if not roots:
        raise UsageError(f"{text[:64]!r} maps no root")
    return roots[0]


def _entry(text: str) -> tuple[int, int, int]:
    match = _ENTRY.fullmatch(text)
    if match is None or any(int(number) >= _INVALID_ID for number in match.groups()):
        raise UsageError(f"{text[:64]!r} is no mapping of ids: expected CONTAINER:HOST:SIZE")
    inside, outside, size = map(int, match.groups())
    return inside, outside, size
