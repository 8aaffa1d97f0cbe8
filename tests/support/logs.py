"""A test fails on any WARNING or ERROR log record that it did not declare.

After the idea of s3ql's pytest_checklogs: what a user would be warned of must be what the test meant
to provoke.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

OF_STRANGERS = re.compile(r"Invalid HTTP request received\.")
"""uvicorn's word to whoever speaks no HTTP. No test does: it is a program that looks for its own manager, of
another test beside this one, at a port that was that manager's before the kernel gave it to ours."""


@dataclass
class ExpectedLogs:
    """What a test declares: ``expected_logs.expect("gave up after 3 tries")``."""

    patterns: list[re.Pattern[str]] = field(default_factory=list)
    required: list[re.Pattern[str]] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Records whose message holds the regular expression may come, or not."""
        self.patterns.append(re.compile(pattern))

    def expect(self, pattern: str) -> None:
        """At least one such record must come, any number may."""
        self.allow(pattern)
        self.required.append(self.patterns[-1])


class LogWatch(logging.Handler):
    """Keeps the records of one test that a user would see."""

    def __init__(self) -> None:
        """Watch from WARNING on."""
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)

    def complaint(self, expected: ExpectedLogs) -> str | None:
        """What is wrong with the records, or None."""
        messages = [record.getMessage() for record in self.records]
        for record, message in zip(self.records, messages, strict=True):
            if not any(pattern.search(message) for pattern in (OF_STRANGERS, *expected.patterns)):
                return (
                    f"undeclared log record (see expected_logs): {record.levelname} {record.name}: {message}"
                )
        for pattern in expected.required:
            if not any(pattern.search(message) for message in messages):
                return f"no log record with {pattern.pattern!r}; there were: {messages}"
        return None
