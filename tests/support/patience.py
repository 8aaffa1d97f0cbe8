"""How long a test waits for what surely comes. Only what hangs takes longer, and a failure may cost time.

Two cores are shared with another test's processes, a browser, a database: what takes a second alone takes
twenty now and then. A test of how long something takes, or does not take, says so with numbers of its own.
"""

from __future__ import annotations

PATIENCE_S = 90
