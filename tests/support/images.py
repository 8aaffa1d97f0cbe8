"""Real images for tests: the demo's Debian with Python, built once and kept (see ``demo.image``)."""

from __future__ import annotations

from pathlib import Path

from demo.image import debian_python


def debian_python_layout(tag: str = "v1") -> Path:
    """An OCI layout that holds the image of three layers as ``tag``.

    The first call on a machine builds it (debootstrap, about 40 s); later ones find it in ``.cache``.
    ``v2`` is the same recipe with Debian's security updates. Treat it as read-only.
    """
    return debian_python(tag, lambda _: None)
