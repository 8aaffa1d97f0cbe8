"""The manager's database: SQLite in a file of its own, or PostgreSQL. The only module that knows which.

Sessions are used in threads, never in the event loop's. A ``writing`` session is one transaction: all of it,
or nothing. In SQLite it takes the write lock when it begins, so what it reads cannot change under it; in
PostgreSQL (READ COMMITTED) rows that a decision rests on are read ``with_for_update``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from cafs.daemon.directory_lock import locked
from cafs.errors import StateError, StorageError, UnavailableError, UsageError

_WAIT_S = 10
_STATEMENT_MS = 30_000
_NETWORK = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Of connections to PostgreSQL: a host of it that is gone without a word is noticed within ten seconds or so.

TCP's own patience with what nobody acknowledges is a quarter of an hour, and with an answer without end.
"""
_NOT_NOW = frozenset(["25006", "42501"])
"""Of PostgreSQL: it takes no changes (a standby, as after a failover), or not from us."""
_AT_THE_SAME_MOMENT = frozenset(["23503", "23505"])
"""Of PostgreSQL: what a row belongs to is gone, or such a row is there, which was not so when we looked."""
_WORDS = 300
_LOCK_KEY = 0x63616673
"""Of PostgreSQL's advisory locks: whoever changes the tables' form has it."""
_KINDS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def parse_database(address: str, default: Path) -> URL:
    """The setting ``manager_database``; empty: SQLite in ``default``.

    Raises:
        UsageError: it is no such address. What it says is not repeated: it may hold a password.
    """
    if not address:
        return URL.create("sqlite", database=str(default))
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise UsageError("manager_database is no address: sqlite:////PATH or postgresql://...") from None
    kind = _KINDS.get(url.drivername.partition("+")[0])
    if kind is None:
        raise UsageError(f"manager_database: {url.drivername[:20]!r} is neither sqlite nor postgresql")
    if kind == "sqlite" and not (url.database or "").startswith("/"):
        raise UsageError("manager_database: SQLite needs an absolute path, as in sqlite:////var/lib/x.db")
    return url.set(drivername=kind)


class Database:
    """See the module."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._stack = ExitStack()
        self.is_sqlite = url.drivername == "sqlite"

    def __enter__(self) -> Self:
        """Have a SQLite file to oneself; PostgreSQL is shared.

        Raises:
            StateError: another manager has the file.
            StorageError: it cannot be made.
        """
        arguments: dict[str, Any] = {"timeout": _WAIT_S}
        if self.is_sqlite:
            self._stack.enter_context(locked(_make_private(self._url), "cafs manager"))
        else:
            arguments = {
                **_NETWORK,
                "connect_timeout": _WAIT_S,
                "client_encoding": "utf8",  # a server that was set up without a locale has none of its own
                "options": f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_STATEMENT_MS}",
            }
        self._engine = create_engine(
            self._url,
            pool_pre_ping=not self.is_sqlite,
            pool_size=10,
            max_overflow=10,
            pool_timeout=_WAIT_S,
            connect_args=arguments,
        )
        if self.is_sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._stack.callback(self._engine.dispose)
        self._writers = self._engine.execution_options(writes=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """For people; without password, nor options, which may be another one."""
        kind = self._url.drivername.partition("+")[0]
        return self._url.set(drivername=kind, query={}).render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A look at the database; objects may be used after its end.

        Raises:
            UnavailableError: it does not answer.
        """
        with _translated(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction: committed at the end, rolled back by any exception.

        Raises:
            UnavailableError: it does not answer. Whether it is committed is then not known.
            StateError: another replica removed, or made, what it rests on.
        """
        with _translated(), Session(self._writers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reshaping(self) -> Iterator[Connection]:
        """A transaction in which tables are made and changed: one at a time, of all replicas.

        Raises:
            UnavailableError: it cannot be used; with the reason, for whoever starts the manager.
        """
        try:
            with _translated(), self._writers.begin() as connection:
                if not self.is_sqlite:
                    for patience in ("lock_timeout", "statement_timeout"):
                        connection.execute(text(f"SET LOCAL {patience} = 0"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                yield connection
        except UnavailableError as e:
            why = words_of(e)
            raise UnavailableError(f"manager_database {self.name} cannot be used: {why}") from e


def _make_private(url: URL) -> Path:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        raise StorageError(f"cannot keep the database in {path}: {e.strerror}") from e
    return path.parent


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions are begun by us: the driver's own way begins none before CREATE TABLE.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as e:
        raise UnavailableError("the database does not answer (no connection is free): try again") from e
    except DataError as e:
        raise UsageError("a value that the database cannot hold") from e
    except IntegrityError as e:
        if _code_of(e) not in _AT_THE_SAME_MOMENT:
            raise
        raise StateError("what this rests on was changed or removed at the same moment: look again") from e
    except DBAPIError as e:
        if not _is_its_own(e):
            raise
        # Its words may hold values of the statement; the class says enough to people who ask by REST.
        why = type(e.orig).__name__
        raise UnavailableError(f"the database does not answer ({why}): try again") from e


def _is_its_own(error: DBAPIError) -> bool:
    """Whether the database, or the way to it, is at fault, and not a statement of ours."""
    if isinstance(error, OperationalError | InterfaceError) or error.statement is None:
        return True
    # The bare class is what SQLite has for files that are damaged, or none of its.
    return type(error) is DatabaseError or _code_of(error) in _NOT_NOW


def _code_of(error: DBAPIError) -> str:
    """SQLSTATE; SQLite has none."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def words_of(error: UnavailableError) -> str:
    """What the database's driver said, in a line for the log: no statement, no value, no password."""
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return str(error)
    said = getattr(getattr(cause.orig, "diag", None), "message_primary", None) or str(cause.orig)
    return " ".join(said.split())[:_WORDS]
