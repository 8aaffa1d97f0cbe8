"""What an import statement of Python asks for. Pure."""

from __future__ import annotations

from typing import NamedTuple

MAX_IMPORTS = 200
MAX_NAMES = 100
"""Of one module, and of one statement: more is no module that somebody wrote."""


class Import(NamedTuple):
    """``import MODULE``, or ``from MODULE import NAMES``."""

    level: int
    """Of so many leading dots: 0 is absolute."""
    module: bytes
    """Dotted name, without the leading dots; may be empty after them."""
    names: tuple[bytes, ...] = ()
    """Each of them may be a module in a package, or something inside the module."""
