"""What every command is handed: the settings and the way to speak to the user.

A command gets it by ``@click.pass_obj`` and prints through it only, so that ``--json``, ``--quiet`` and
``--debug`` mean the same everywhere: results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafs.cli.config import load_settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cafs.core.progress import Progress
    from cafs.core.settings import Settings
    from cafs.node.prefork import Keeper


@dataclass
class Context:
    """One run of ``cafs``. The global options fill it, commands read it."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    config: Path | None = None
    flags: list[str] = field(default_factory=list)
    keeper: Keeper | None = None
    """Forked before the command line was parsed, in case it is a mount."""
    announced: str | None = None
    """The image that the mount server was told of before the command line was parsed."""

    @cached_property
    def settings(self) -> Settings:
        """Read on first use.

        Raises:
            UsageError: the configuration is wrong.
        """
        config = self.config or os.environ.get("CAFS_CONFIG")
        return load_settings(
            os.environ, is_root=os.geteuid() == 0, config=Path(config) if config else None, flags=self.flags
        )

    def take_keeper(self) -> Keeper:
        """The process that will keep a mount."""
        from cafs.node.prefork import Keeper  # noqa: PLC0415 -- only a mount needs it

        keeper, self.keeper = self.keeper or Keeper(), None
        return keeper

    def result(self, document: Any, text: str) -> None:
        """What the user asked for: ``document`` for machines, ``text`` for people."""
        if self.json:
            # In another encoding than UTF-8 it is JSON only without what that cannot write.
            is_utf8 = (sys.stdout.encoding or "utf-8").lower() in {"utf-8", "utf8"}
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=not is_utf8) + "\n")
        else:
            sys.stdout.write(_shown(text if text.endswith("\n") or not text else text + "\n"))

    def note(self, text: str) -> None:
        """Something worth knowing, on standard error; ``--quiet`` hides it."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def progress(self) -> AbstractContextManager[Progress]:
        """Bars on a terminal, lines otherwise, nothing with ``--quiet``; made when the first step begins."""
        from cafs.core.progress import deferred  # noqa: PLC0415 -- only where work is shown

        def show() -> AbstractContextManager[Progress]:
            from cafs.cli.progress import open_progress  # noqa: PLC0415 -- only where work is shown

            return open_progress(sys.stderr, quiet=self.quiet)

        return deferred(show)

    @property
    def log_level(self) -> int:
        """From which level on log records are shown."""
        return logging.DEBUG if self.debug else logging.ERROR if self.quiet else logging.WARNING


def _shown(text: str) -> str:
    """Bytes of a path that are no UTF-8 as ``\\xNN``; halves of characters are left to standard output."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text
