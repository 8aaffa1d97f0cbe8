"""Which modules a Python extension, compiled from C or Cython, may import. Pure.

Their names are strings in the file, as what ``PyImport_ImportModule`` is given, or among Cython's. So is much
else: the caller keeps those that are names of modules. Of fifty such names in numpy, three were wrong.
"""

from __future__ import annotations

import itertools
import re

from cafs.core.python_import import Import

MAX_NAMES = 20_000

_NAME = re.compile(rb"(?<=\0)[a-z_][a-z0-9_]{0,60}(?:\.[A-Za-z0-9_]{1,60}){0,8}(?=\0)")


def extension_imports(content: bytes) -> list[Import]:
    """What may be imports, each once, in the file's order."""
    names = dict.fromkeys(found[0] for found in _NAME.finditer(content))
    return [Import(0, name) for name in itertools.islice(names, MAX_NAMES)]
