"""The one table from errors to exit codes, and how an error is said in one line."""

from __future__ import annotations

import errno
import re

from cafs.errors import CafsError, IntegrityError, UsageError

EXIT_OK = 0
EXIT_FAILURE = 1
"""A registry, the disk or the state of the machine stood in the way."""
EXIT_USAGE = 2
"""The user's mistake: an argument, a reference, the configuration."""
EXIT_INTEGRITY = 3
"""Bytes are not what their digest, size or format says."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""

# Strings that came from a registry or a tar may hold anything, also sequences that steer a terminal.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def exit_code(error: BaseException) -> int:
    """The exit code for what ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, IntegrityError):
        return EXIT_INTEGRITY
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE


def one_line(error: BaseException) -> str:
    """The error's message for a person, in one line without control characters."""
    return _UNPRINTABLE.sub(" ", _message(error)).strip()


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, CafsError):
        return str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename is not None else ""
        hint = " (free some space, or set cache_dir elsewhere)" if error.errno == errno.ENOSPC else ""
        return f"{error.strerror}{where}{hint}"
    return f"internal error, please report it with the output of --debug: {type(error).__name__}: {error}"
