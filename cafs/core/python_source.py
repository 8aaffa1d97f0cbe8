"""Which modules a Python source file imports when it is imported or run itself. Pure.

Found by lines, without parsing: statements at the left margin, and indented ones below ``try``, ``if`` and
the like, but none in a function or a class. A hint for prefetching, like ``python_bytecode``.
"""

from __future__ import annotations

import re

from cafs.core.python_import import MAX_IMPORTS, MAX_NAMES, Import

# Every repetition has a bound: the file may be made to be slow to match.
_STATEMENT = re.compile(
    rb"^(?P<indent>[ \t]{0,64})(?:"
    rb"from[ \t]{1,8}(?P<dots>\.{0,16})[ \t]{0,8}(?P<module>[\w.]{0,250})[ \t]{0,8}\bimport\b[ \t]{0,8}"
    rb"(?P<names>\([^)]{0,4000}\)|[^\n;]{0,1000})"
    rb"|import[ \t]{1,8}(?P<modules>[^\n;]{1,1000})"
    rb"|(?P<word>\w{1,250}))",
    re.MULTILINE,
)
_RUN_AT_ONCE = frozenset((b"try", b"except", b"else", b"finally", b"if", b"elif", b"with"))
_COMMENT = re.compile(rb"#[^\n]*")
_NAME = re.compile(rb"[\w.]+")


def source_imports(content: bytes) -> list[Import]:
    """What the file imports, in order."""
    found: list[Import] = []
    is_run = False
    for statement in _STATEMENT.finditer(content):
        if statement["word"] is not None:
            if not statement["indent"]:
                is_run = statement["word"] in _RUN_AT_ONCE
        elif is_run or not statement["indent"]:
            found += _imports(statement)
            if len(found) >= MAX_IMPORTS:
                break
    return found[:MAX_IMPORTS]


def _imports(statement: re.Match[bytes]) -> list[Import]:
    if statement["modules"] is not None:
        return [Import(0, name) for name in _names(statement["modules"])]
    return [Import(len(statement["dots"]), statement["module"], tuple(_names(statement["names"])))]


def _names(listed: bytes) -> list[bytes]:
    """The first word of each part between commas: what follows is another name for it."""
    parts = _COMMENT.sub(b"", listed).strip(b"()").split(b",")
    return [name[0] for part in parts[:MAX_NAMES] if (name := _NAME.search(part))]
