"""Secrets that we make: 256 random bits, kept as their SHA-256 only.

A slow hash protects what people choose; nobody tries out 2^256, and these are checked at each request.
"""

from __future__ import annotations

import hashlib
import secrets

SESSION, PERSONAL, LINK = "cafs_session_", "cafs_token_", "cafs_link_"
"""How each begins, so that one that got somewhere by mistake is recognised."""
_MOST = 128


def make_secret(kind: str) -> str:
    """To be told once."""
    return kind + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """To be kept, and looked up by: which makes the comparison no matter of time."""
    return hashlib.sha256(secret[:_MOST].encode(errors="replace")).hexdigest()
