"""The regular expressions of one document, compiled. Pure.

By RE2, which takes linear time whatever the expression is. But a line of 20 characters can ask for 8 MiB, and
50 ms of the thread in which its service does everything: so they share a bound.
"""

from __future__ import annotations

from typing import Any

from cafs.core.live.fields import Wrong

_MEMORY_BYTES = 1 << 20
"""Of one."""
_MOST_INSTRUCTIONS = 1 << 20
"""Of all of a document, of 16 bytes each: 16 MiB, and about a quarter of a second."""


class Expressions:
    """See the module. What cannot be compiled is noted as wrong."""

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong
        self._instructions = 0

    def compiled(self, path: str, expression: str) -> Any:
        """Searches as ``re``'s do; None: it is noted why not, or so much is wrong that nobody looks on."""
        if self._wrong.is_full or self._instructions > _MOST_INSTRUCTIONS:
            return None
        import re2  # noqa: PLC0415 - only who has such a line needs it

        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MEMORY_BYTES
        try:
            found = re2.compile(expression, options=options)
        except re2.error as e:
            too_large = b"too large" in e.args[0]
            self._instructions += _MEMORY_BYTES // 16 if too_large else 0  # that took its time
            self._wrong.note(path, f"is {'too large a' if too_large else 'no'} regular expression (RE2)")
            return None
        self._instructions += found.programsize
        if self._instructions > _MOST_INSTRUCTIONS:
            self._wrong.note(path, "is too large, together with the expressions before it")
        return found
