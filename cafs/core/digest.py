"""OCI digests (``sha256:…`` text) and how their bytes are checked.

A chunk's digest is another thing: 32 raw bytes of BLAKE3-256, see ``cafs.core.chunk``.
Source: OCI image-spec, descriptor.md, "Digests".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NewType

from cafs.errors import UsageError

Digest = NewType("Digest", str)
"""``ALGORITHM:HEX`` with algorithm sha256 or sha512, never bare hex."""

_FORM = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def parse_digest(text: str) -> Digest:
    """Check the form of ``text``.

    Raises:
        UsageError: it is not a sha256 or sha512 digest as OCI writes them.
    """
    if not _FORM.fullmatch(text):
        raise UsageError(f"not a digest: {text[:100]!r} (expected sha256:<64 hex digits>)")
    return Digest(text)


def sha256_digest(content: bytes | memoryview) -> Digest:
    """The sha256 digest of ``content``."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """What each stack of layers is called, from the lowest layer to all of them.

    Source: OCI image-spec, config.md, "Layer ChainID".
    """
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(sha256_digest(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return chains


def new_hash(digest: Digest) -> hashlib._Hash:
    """A fresh hash object of the digest's algorithm."""
    return hashlib.new(digest.partition(":")[0])
