"""When a client tries again. Pure.

Every request of the control socket may be repeated: adding a layer that is there answers the same, and so
does removing one that is gone. A connection that breaks, because the server was killed in the middle, costs
another attempt. A socket on which nobody listens is another matter: the supervisor keeps it open over any
restart, so it means that there is no mount server, and whoever asks wants to hear that soon.
"""

from __future__ import annotations

AWAY_PATIENCE_S = 2.0
"""How long to wait for a socket that nobody listens on."""
ANSWER_PATIENCE_S = 60.0
"""For one request with all its attempts."""
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2


def pause_before(attempt: int) -> float:
    """Seconds to wait before attempt number ``attempt`` (from 1, the first repetition)."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16), _LONGEST_PAUSE_S)


def should_retry(error: OSError, waited_s: float, away_patience_s: float) -> bool:
    """Whether to try again after a connection could not be made or broke."""
    listens = not isinstance(error, FileNotFoundError | ConnectionRefusedError)
    return listens or waited_s < away_patience_s


def describe_absence(socket_path: str, error: OSError) -> str:
    """For the user."""
    why = error.strerror or str(error)
    return f"no mount server answers on {socket_path} ({why}): is cafs mountd running?"
