"""Holds a stream of bytes against the size and digest it was declared with."""

from __future__ import annotations

from cafs.core.digest import new_hash
from cafs.core.source import BlobRef
from cafs.errors import CafsError, IntegrityError
from cafs.oci.descriptor import AnyBlob


class BlobCheck:
    """Fed every piece in order; never lets more than the declared size pass."""

    def __init__(self, blob: AnyBlob, what: str, size_error: type[CafsError] = IntegrityError) -> None:
        """``what`` names the blob and its place; ``size_error`` is raised for a wrong length."""
        self._blob = BlobRef(blob.digest, blob.size)
        self._what = what
        self._size_error = size_error
        self._hash = new_hash(blob.digest)
        self._seen = 0

    def feed(self, piece: bytes | memoryview) -> None:
        """Raises the size error as soon as there is more than declared."""
        self._seen += len(piece)
        if self._seen > self._blob.size:
            raise self._size_error(f"{self._what} is longer than its declared {self._blob.size} bytes")
        self._hash.update(piece)

    def finish(self) -> None:
        """Raises: the size error when bytes are missing, IntegrityError when the digest differs."""
        if self._seen != self._blob.size:
            raise self._size_error(f"{self._what} ended after {self._seen} of {self._blob.size} bytes")
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if actual != self._blob.digest:
            raise IntegrityError(f"{self._what} does not match its digest: its bytes hash to {actual}")


def check_whole(content: bytes, blob: AnyBlob, what: str) -> bytes:
    """``content`` when it is exactly the declared blob.

    Raises:
        IntegrityError: it is not.
    """
    check = BlobCheck(blob, what)
    check.feed(content)
    check.finish()
    return content
