"""The schedulers that the manager names, beside those in this host's own configuration.

Kept in a file for the next start, with or without a manager, and for commands that ask schedulers. The file
is JSON, written beside and renamed; one that is damaged is as good as none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cafs.core.host_address import parse_address
from cafs.core.settings import Settings
from cafs.errors import ProtocolError
from cafs.p2p.schedulers import Schedulers

log = logging.getLogger(__name__)

MOST = 64
_FILE_BYTES = 64 << 10


class NamedSchedulers:
    """Has a host's ``Schedulers`` use them. Belongs to the trio thread."""

    def __init__(self, settings: Settings, schedulers: Schedulers) -> None:
        self._own = settings.schedulers
        self._path = _path(settings)
        self._schedulers = schedulers
        self._named = _read(self._path)

    def take(self, addresses: Sequence[str]) -> None:
        """The manager names these, and no others."""
        try:
            named = _checked(addresses)
        except ProtocolError as e:
            log.warning("the manager names schedulers that cannot be (%s): they stay as they are", e)
            return
        self._schedulers.use([*self._own, *named])  # also where it is none: nobody waits for a name then
        if named == self._named:
            return
        self._named = named
        log.info("the manager names %d schedulers", len(named))
        try:
            _write(self._path, named)
        except OSError as e:
            log.warning("the named schedulers cannot be kept in %s: %s", self._path, e.strerror)


def known_schedulers(settings: Settings) -> list[str]:
    """The configured ones, and those that the manager named last."""
    named = _read(_path(settings)) if settings.managers else []
    return list(dict.fromkeys([*settings.schedulers, *named]))


def _path(settings: Settings) -> Path:
    return settings.cache_dir / "peer" / "schedulers.json"


def _checked(addresses: Any) -> list[str]:
    if not isinstance(addresses, list) or len(addresses) > MOST:
        raise ProtocolError(f"no list of {MOST} at most")
    if not all(isinstance(address, str) for address in addresses):
        raise ProtocolError("an address is no text")
    return list(dict.fromkeys(parse_address(address) for address in addresses))


def _read(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return _checked(json.loads(file.read(_FILE_BYTES)))
    except FileNotFoundError:
        return []
    except (ProtocolError, OSError, ValueError, RecursionError) as e:
        log.warning("the schedulers kept in %s are not used: %s", path, e)
        return []


def _write(path: Path, named: Sequence[str]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(list(named)))
    beside.replace(path)
