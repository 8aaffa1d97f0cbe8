"""By which word it is counted that a layer goes the ordinary way."""

import errno

import pytest

from cafs.control_socket.protocol import AwayError, Reason, RefusedError
from cafs.errors import UnavailableError, UsageError
from cafs.snapshotter.tally import fallback_reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RefusedError("damaged", Reason.INVALID), "invalid"),
        (RefusedError("its disk is full", Reason.STORAGE), "storage"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (AwayError("nobody answers"), "mountd_away"),
        (UnavailableError("EROFS says no"), "mount_failed"),
        (UsageError("no digest"), "bad_labels"),
    ],
)
def test_a_fallback_has_a_reason(error: Exception, reason: str) -> None:
    assert fallback_reason(error) == reason
