"""The one number that says which bytes a conversion gives. In index headers and in the options' key."""

from __future__ import annotations

WRITER_VERSION = 3
"""Must grow whenever the same layer and options would give other bytes, in the index or in the blob.

2: match tables of 2^16 instead of 2^17 entries (docs/adr/0003-chunking.md).
3: a hard link to a file of a lower layer is what that was when the link came, whatever comes after it.
"""
