"""Opening a store whatever its last user did to it: checked when suspect, set aside when damaged.

The order, all of it behind the store's door lock:

1. the directory is private and on a filesystem that LMDB can bear;
2. our mark is left; marks of processes that died, or that met an error, make the store suspect, and so
   does a data file that is shorter than its meta pages say;
3. a suspect store is checked page by page with plain reads (a damaged page kills who meets it in LMDB's
   memory map, but not who reads it);
4. a damaged store is set aside and a fresh one made: it is a cache, and nothing of value is lost.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from cafs.errors import IntegrityError, NotFoundError
from cafs.store.environment import LOCK_FILE_BYTES, DamagedError, Environment
from cafs.store.location import (
    data_bytes,
    lacks_bytes,
    lengthen,
    prepare_directory,
    reserve_lock_file,
    set_aside,
    sweep_unfinished_copy,
    unreadable,
)
from cafs.store.presence import SUSPECT, Presence, entry_lock
from cafs.store.records import State
from cafs.store.tables import STATE_KEY, Tables

THOROUGH_EVERY = 3
"""Of so many deaths in a row the last makes us read the whole file: a sector that the disk cannot read any
more, under a frame, is no damage of a page, and yet kills every server that touches it with a SIGBUS."""
QUICKLY_CHECKED_BYTES = 1 << 30
"""A larger store is checked from the second death in a row on: nearly always the first was a kill -9, which
does no harm, and readers of a mount that is being taken over wait for the check (7 s a million chunks)."""
_SLACK_BYTES = 8 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenStore:
    """What opening gives."""

    env: Environment
    tables: Tables
    presence: Presence


def open_store(store: Path, map_bytes: int, *, readonly: bool) -> OpenStore:
    """Open the environment below ``store``.

    Raises:
        NotFoundError: read-only, and there is no store.
        StateError: this process has it open already.
        StorageError: the disk or LMDB failed.
    """
    prepare_directory(store, readonly=readonly)
    with entry_lock(store):
        if not readonly:
            sweep_unfinished_copy(store)
        presence = Presence(store)
        try:
            _judge(store, presence, map_bytes)
            presence.absolve()
            env, tables = _open_sound(store, map_bytes, readonly=readonly)
        except BaseException:
            presence.withdraw(clean=not presence.found_dead)
            raise
        return OpenStore(env, tables, presence)


def _judge(store: Path, presence: Presence, map_bytes: int) -> None:
    """Check or replace the environment as far as its last users give reason to."""
    environment = store / "chunks"
    verdict = presence.verdict()
    if verdict and verdict != SUSPECT:
        _replace(store, verdict)
        return
    deaths = presence.count_death() if presence.found_dead else 0
    reason = verdict or lacks_bytes(environment) or deaths > 1
    if reason or (deaths and data_bytes(environment) <= QUICKLY_CHECKED_BYTES):
        _check(store, map_bytes, thorough=deaths > 0 and deaths % THOROUGH_EVERY == 0)


def _check(store: Path, map_bytes: int, *, thorough: bool) -> None:
    environment = store / "chunks"
    if not (environment / "data.mdb").exists():
        return
    reserve_lock_file(environment, LOCK_FILE_BYTES)
    try:
        env = Environment(environment, _roomy(environment, map_bytes), readonly=False)
        try:
            findings = env.structure_findings()
        finally:
            env.close()
    except DamagedError as e:
        findings = [str(e)]
    if thorough and not findings:
        findings = unreadable(environment / "data.mdb")
    if findings:
        _replace(store, findings[0])
    else:
        # What lies behind the end is free, or the tail of a frame: read as zeros it is rotten, not a SIGBUS.
        lengthen(environment)


def _open_sound(store: Path, map_bytes: int, *, readonly: bool) -> tuple[Environment, Tables]:
    try:
        return open_environment(store, map_bytes, readonly=readonly)
    except (DamagedError, IntegrityError) as e:
        _replace(store, str(e))
    if readonly:
        raise NotFoundError(f"there is no sound chunk store in {store}")
    return open_environment(store, map_bytes, readonly=readonly)


def open_environment(store: Path, map_bytes: int, *, readonly: bool) -> tuple[Environment, Tables]:
    """Open an environment that is believed to be sound.

    Raises:
        IntegrityError: its counters are damaged, or of another format.
        StorageError: the disk or LMDB failed (``DamagedError``: it is not sound).
    """
    environment = store / "chunks"
    reserve_lock_file(environment, LOCK_FILE_BYTES)
    env = Environment(environment, _roomy(environment, map_bytes), readonly=readonly)
    try:
        env.clear_dead_readers()
        tables = Tables.open(env)
        with env.read() as txn:
            State.decode(txn.get(STATE_KEY, db=tables.state))
    except BaseException:
        env.close()
        raise
    return env, tables


def _roomy(environment: Path, map_bytes: int) -> int:
    """The map's size: the quota, or a little more than a file that is larger (its quota was lowered).

    Evicting has to copy pages before it can free any.
    """
    file_bytes = data_bytes(environment)
    return max(map_bytes, file_bytes + _SLACK_BYTES) if file_bytes > map_bytes else map_bytes


def _replace(store: Path, why: str) -> None:
    _log.warning(
        "chunk store %s is damaged (%s): set aside as %s, starting with an empty one",
        store,
        why,
        store / "damaged",
    )
    set_aside(store)
