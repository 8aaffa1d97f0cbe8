"""OCI digests (``sha256:…`` text) and how their bytes are checked.

A chunk's digest is another thing: 32 raw bytes of BLAKE3-256, see ``cafs.core.chunk``.
Source: OCI image-spec, descriptor.md, "Digests".
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from cafs.errors import IntegrityError, UsageError

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


def new_hash(digest: Digest) -> hashlib._Hash:
    """A fresh hash object of the digest's algorithm."""
    return hashlib.new(digest.partition(":")[0])


def check_digest(content: bytes | memoryview, expected: Digest, what: str) -> None:
    """Compare ``content`` with ``expected``.

    Raises:
        IntegrityError: they differ; ``what`` names the content in the message.
    """
    hasher = new_hash(expected)
    hasher.update(content)
    actual = f"{hasher.name}:{hasher.hexdigest()}"
    if actual != expected:
        raise IntegrityError(f"{what} does not match its digest: expected {expected}, got {actual}")
