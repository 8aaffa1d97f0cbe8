"""The one error tree of CAFS.

Every error a user can meet is one of these, with a message of one line that says what is wrong and
what to do. Each boundary translates them in exactly one table: the command line to an exit code
(``cafs.cli``), FUSE to an errno (``cafs.fuse``), later gRPC and HTTP to their statuses.
"""

from __future__ import annotations


class CafsError(Exception):
    """Base of all errors that CAFS raises on purpose."""


class UsageError(CafsError):
    """The user asked for something that cannot be: a bad argument, reference or configuration."""


class IntegrityError(CafsError):
    """Bytes are not what their digest, size or format says. Nothing of them was used."""


class NotFoundError(CafsError):
    """The named image, blob, path or chunk does not exist where it was looked for."""


class UntrustedError(CafsError):
    """There is an index artifact, but this machine's policy does not believe it. Nothing of it was used."""


class StorageError(CafsError):
    """The local disk or the chunk store cannot do what was asked (full, locked, unreadable)."""


class RemoteError(CafsError):
    """A registry or another origin failed. The message names it and what it answered."""

    retry_after_s: float | None = None
    """How long the origin asked to be left alone (Retry-After); whoever raises the error sets it."""
    http_status: int | None = None
    """What it answered, where that was an answer of HTTP; set like the other."""
    given_up: bool = False
    """Whoever tells us so has tried again and again, as this node's peer does; set like the others."""


class AuthError(RemoteError):
    """The origin refused our credentials, or wants some that we do not have."""


class DeadlineError(RemoteError):
    """The origin did not answer in time."""


class ProtocolError(RemoteError):
    """The other side broke the protocol it claims to speak."""


class StateError(CafsError):
    """The operation does not fit the present state (mount point in use, not a CAFS mount, ...)."""


class BlockedError(StateError):
    """Somebody who decides here does not want it: a priority, or the cluster's configuration."""


class ExistsError(StateError):
    """What is to be made is there already."""


class UnavailableError(StateError):
    """Something this needs is not there right now; it may be later. The message says what to do."""


def leading_error(error: BaseException) -> BaseException:
    """The one error of a (nested) group that says most: a nursery's failure is a group.

    Ctrl-C first, since what else failed then failed because of it; then damage, then a mistake of the
    user's, then any of ours, then the first of the rest.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [leading_error(inner) for inner in error.exceptions]
    for kind in (KeyboardInterrupt, IntegrityError, UsageError, CafsError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]
