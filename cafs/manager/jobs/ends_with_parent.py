"""``python -m cafs.manager.jobs.ends_with_parent PID COMMAND...``: runs a command that ends with process PID.

PID is whoever starts this. When it is killed, the command gets SIGTERM, so that nothing of it is left.
"""

from __future__ import annotations

import os
import signal
import sys

from cafs.fuse.syscalls import signal_on_parent_death


def main() -> None:
    """Become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal_on_parent_death(signal.SIGTERM)
    if os.getppid() == parent:  # else it has ended already, and nobody would tell us
        os.execv(command[0], command)  # noqa: S606 - the manager's own words


if __name__ == "__main__":
    main()
