"""The tables as classes. What they look like in the database is decided by the migrations alone."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """Base of all."""


class Replica(Table):
    """A process of the manager."""

    __tablename__ = "replica"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    address: Mapped[str] = mapped_column(String(255))
    """Of its REST, for people."""
    version: Mapped[str] = mapped_column(String(64))
    beats: Mapped[int] = mapped_column(BigInteger)
    """Counts up as long as it lives: others compare it by their own clocks, so no clocks need agree."""


class Counter(Table):
    """Numbers that everybody counts up."""

    __tablename__ = "counter"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
