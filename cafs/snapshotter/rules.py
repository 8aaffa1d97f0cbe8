"""What keys, labels and field masks may be, and what an update makes of labels. Pure.

The rules are containerd's: core/snapshots/storage/bolt.go, core/metadata/boltutil/helpers.go and
pkg/labels/validate.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cafs.errors import UsageError

MAX_KEY_BYTES = 32768
"""bbolt's MaxKeySize."""
MAX_LABEL_BYTES = 4096
"""A label's key and value together."""
_SHOWN = 64


def check_key(key: str, what: str) -> None:
    """Refuse what cannot be the key or name of a snapshot.

    Raises:
        UsageError: it is empty or too long.
    """
    if not key:
        raise UsageError(f"{what} of the snapshot is missing")
    if (size := len(key.encode())) > MAX_KEY_BYTES:
        raise UsageError(f"{what} of the snapshot has {size} bytes, at most {MAX_KEY_BYTES} are allowed")


def kept_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that are stored: one without a value is not there.

    Raises:
        UsageError: one is too long.
    """
    for key, value in labels.items():
        size = len(key.encode()) + len(value.encode())
        if size > MAX_LABEL_BYTES:
            raise UsageError(
                f"label {key[:_SHOWN]!r} and its value have {size} bytes, at most {MAX_LABEL_BYTES} may be"
            )
    return {key: value for key, value in labels.items() if value}


def updated_labels(
    old: Mapping[str, str], new: Mapping[str, str], paths: Sequence[str], name: str
) -> dict[str, str]:
    """The labels after an Update.

    Args:
        old: Those there are.
        new: Those of the request.
        paths: Its field mask: ``labels``, ``labels.KEY``; none means all labels.
        name: Of the snapshot, for the message.

    Raises:
        UsageError: the mask names something that cannot be changed, or a label is too long.
    """
    labels = dict(old)
    for path in paths or ["labels"]:
        if path.startswith("labels."):
            key = path.removeprefix("labels.")
            labels[key] = new.get(key, "")
        elif path == "labels":
            labels = dict(new)
        else:
            raise UsageError(f"cannot update {path!r} field on snapshot {name!r}")
    return kept_labels(labels)
