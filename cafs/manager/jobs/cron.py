"""When a schedule is due next: cron expressions in a time zone. Pure.

Five fields as Debian's cron reads them, and what it does when clocks change: what falls into an hour that is
left out comes right after it, what falls into one that comes twice comes once, unless it is due every hour
anyhow.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from cafs.errors import UsageError

_FIELDS = 5


def next_time(cron: str, timezone: str, after: datetime) -> datetime:
    """The first time after ``after``, in UTC.

    Raises:
        UsageError: the expression or the time zone is none, or it is never due.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ValueError, OSError, KeyError):
        raise UsageError(f"no such time zone: {timezone[:64]!r} (as Europe/Berlin)") from None
    if len(cron.split()) != _FIELDS:  # of six the first would be seconds
        raise UsageError("no cron expression: five fields are needed (minute hour day month weekday)")
    try:
        for found in CronSim(cron, after.astimezone(zone)):
            # Within an hour that comes twice it means the first one, which may be over.
            if (due := found.astimezone(UTC)) > after:
                return due
    except CronSimError as e:
        raise UsageError(f"no cron expression: {e} (minute hour day month weekday)") from None
    raise UsageError("it is never due")
