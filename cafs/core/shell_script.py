"""Which programs a shell script runs, as far as its text says it. Pure.

Found by lines and words, without parsing the language: the first word of each command, and every word that
follows ``exec`` or is an absolute path, since ``setpriv``, ``gosu`` and the like run what follows them. The
bodies of functions are left out: they run later or never. A hint for prefetching, like ``python_source``.
"""

from __future__ import annotations

import re

MAX_WORDS = 64

_SHELLS = re.compile(r"(?:.*/)?(?:sh|ash|bash|dash|busybox)")
_FUNCTION = re.compile(rb"^[ \t]{0,64}(?:function[ \t]{1,8})?[\w-]{1,64}[ \t]{0,8}\(\)")
_COMMENT = re.compile(rb"(?:^|(?<=\s))#.*")
_SEPARATOR = re.compile(rb"\$\(|[;&|()`]")
_ASSIGNMENT = re.compile(rb"\w{1,64}=.*")
_PATH = re.compile(rb"[\w./+-]{1,255}")
_NO_PROGRAMS = frozenset(b"if then elif else fi while until do done ! { } time exec command".split())


def is_shell(interpreter: str) -> bool:
    """Is this the name of a shell?"""
    return _SHELLS.fullmatch(interpreter) is not None


def script_programs(content: bytes) -> list[bytes]:
    """Names and paths of what may be programs, each once, in the script's order."""
    found: dict[bytes, None] = {}
    in_function = False
    for line in content.partition(b"\0")[0].replace(b"\\\n", b" ").split(b"\n"):
        in_function = in_function or _FUNCTION.match(line) is not None
        if not in_function:
            for command in _SEPARATOR.split(_COMMENT.sub(b"", line)):
                found |= dict.fromkeys(_programs(command.split()))
        in_function = in_function and not line.startswith(b"}")
    return list(found)[:MAX_WORDS]


def _programs(words: list[bytes]) -> list[bytes]:
    words = [word.strip(b"\"'") for word in words]
    while words and (words[0] in _NO_PROGRAMS or _ASSIGNMENT.fullmatch(words[0])):
        if words.pop(0) == b"exec":
            return [word for word in words if _PATH.fullmatch(word)]
    paths = [word for word in words[1:] if word.startswith(b"/")]
    return [word for word in (*words[:1], *paths) if _PATH.fullmatch(word)]
