"""The tables as classes. What they look like in the database is decided by the migrations alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    TypeDecorator,
)
from sqlalchemy import Table as Plain
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cafs.core.statistics.amounts import AMOUNTS, LEVELS


class Moment(TypeDecorator[datetime]):
    """A time in UTC. SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From it."""
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


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


class Account(Table):
    """Somebody who may sign in."""

    __tablename__ = "account"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as SQLAlchemy wants it

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(255))
    """None: has not set one yet."""
    role: Mapped[str | None] = mapped_column(String(16))
    """Everywhere."""
    disabled: Mapped[bool] = mapped_column(default=False)
    oidc: Mapped[bool] = mapped_column(default=False)
    """Comes in by the OpenID provider, and has no password."""
    oidc_subject: Mapped[str | None] = mapped_column(String(64), unique=True)
    """Whom the provider means (``federated.subject_key``); None: has not come in yet."""
    version: Mapped[int] = mapped_column(default=1)
    """Counts changes: its ETag."""
    created_at: Mapped[datetime] = mapped_column(Moment)


class SealingKey(Table):
    """Seals what browsers keep for us; the same for all replicas."""

    __tablename__ = "sealing_key"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(String(64))


class Token(Table):
    """What lets an account in: a session, begun with the password, or a personal access token."""

    __tablename__ = "token"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str | None] = mapped_column(String(64))
    """None: a session."""
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """None: a session."""
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment)


class Invitation(Table):
    """A link with which an account gets a password, once."""

    __tablename__ = "invitation"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    """None: a new administrator."""
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime] = mapped_column(Moment)


class Change(Table):
    """What was changed by whom: the audit. Rows are only added."""

    __tablename__ = "change"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment, index=True)
    who: Mapped[str] = mapped_column(String(64))
    """The account's name; it outlives the account."""
    by: Mapped[str] = mapped_column(String(128))
    address: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    thing: Mapped[str] = mapped_column(String(128))
    """As ``user 3 alice``."""
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Cluster(Table):
    """Hosts with one configuration."""

    __tablename__ = "cluster"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """``scheduler``: of schedulers and peers; ``seed``: of seeds."""
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(String(1000), default="")
    scopes: Mapped[dict[str, list[str]]] = mapped_column(JSON)
    is_default: Mapped[bool] = mapped_column(default=False)
    """At most one of a kind."""
    version: Mapped[int] = mapped_column(default=1)
    """Counts changes: its ETag."""
    configuration: Mapped[int] = mapped_column(default=0)
    """The newest version of its configuration; 0: there is none, and services have their own."""
    created_at: Mapped[datetime] = mapped_column(Moment)


class Configuration(Table):
    """A version of a cluster's configuration. Rows are only added."""

    __tablename__ = "configuration"

    cluster_id: Mapped[int] = mapped_column(ForeignKey("cluster.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    """1, 2, 3..."""
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    note: Mapped[str] = mapped_column(String(1000))
    """Why, for people."""
    who: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(Moment)
    restored: Mapped[int | None] = mapped_column()
    """The version that it says again."""


class ClusterRole(Table):
    """What an account may do in one cluster."""

    __tablename__ = "cluster_role"

    cluster_id: Mapped[int] = mapped_column(ForeignKey("cluster.id", ondelete="CASCADE"), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))


class Host(Table):
    """A scheduler, seed or peer that was here at least once."""

    __tablename__ = "host"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    hostname: Mapped[str] = mapped_column(String(255))
    address: Mapped[str] = mapped_column(String(64))
    idc: Mapped[str] = mapped_column(String(255))
    location: Mapped[str] = mapped_column(String(255))
    cafs_version: Mapped[str] = mapped_column(String(255))
    cluster_id: Mapped[int | None] = mapped_column(ForeignKey("cluster.id", ondelete="SET NULL"), index=True)
    replica_id: Mapped[str | None] = mapped_column(String(32), index=True)
    """With whom its stream is, or was."""
    active: Mapped[bool] = mapped_column()
    since: Mapped[datetime] = mapped_column(Moment)
    """For so long it is active, or is not."""
    first_seen_at: Mapped[datetime] = mapped_column(Moment)
    running: Mapped[int | None] = mapped_column()
    """The version of its cluster's configuration that it runs, as it said last; None: it said nothing."""
    refused: Mapped[str] = mapped_column(String(1000), default="")
    """Why it does not run a newer one; empty: it does not refuse any."""


class LearnedProfile(Table):
    """What starts of an image read: merged of the newest of them."""

    __tablename__ = "learned_profile"

    image: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of its manifest, in hex."""
    name: Mapped[str] = mapped_column(String(512))
    """By which it was mounted last, for people."""
    starts: Mapped[int] = mapped_column()
    """Of which it was learned."""
    chunks: Mapped[int] = mapped_column()
    frame_bytes: Mapped[int] = mapped_column(BigInteger)
    """That a start read, the median of what they said."""
    document: Mapped[bytes] = mapped_column(LargeBinary)
    """The profile, as it is sent."""
    etag: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of that."""
    learned_at: Mapped[datetime] = mapped_column(Moment, index=True)
    """When the newest start was told."""


class LearnedLayer(Table):
    """A layer of an image of which something is learned: one that was seen from its first read on."""

    __tablename__ = "learned_layer"

    image: Mapped[str] = mapped_column(
        ForeignKey("learned_profile.image", ondelete="CASCADE"), primary_key=True
    )
    diff_id: Mapped[str] = mapped_column(String(136), primary_key=True, index=True)
    chunks: Mapped[int] = mapped_column()
    """Of it, that a start reads."""


class LearnedDigests(Table):
    """The chunks of a learned profile, to be compared with those of others."""

    __tablename__ = "learned_digests"

    image: Mapped[str] = mapped_column(
        ForeignKey("learned_profile.image", ondelete="CASCADE"), primary_key=True
    )
    digests: Mapped[bytes] = mapped_column(LargeBinary)
    """The first 8 bytes of each, one behind the other, sorted, each once."""


class Start(Table):
    """One start of an image, as a host told it: a host's newest counts."""

    __tablename__ = "start"

    image: Mapped[str] = mapped_column(
        ForeignKey("learned_profile.image", ondelete="CASCADE"), primary_key=True
    )
    host_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """It outlives the host."""
    at: Mapped[datetime] = mapped_column(Moment)
    frame_bytes: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    """The profile of this start, compressed by zlib."""


STATISTIC = Plain(
    "statistic",
    Table.metadata,
    Column("kind", String(16), primary_key=True),
    Column("resolution_s", Integer, primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("cluster_id", Integer, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in AMOUNTS),
    *(Column(name, BigInteger) for name in LEVELS),
    Index("statistic_subject", "subject", "at"),
    sqlite_with_rowid=False,
)
"""What happened in ``resolution_s`` seconds from ``at`` (since 1970) on, of one thing of a ``kind``
(``cluster``, ``host``, ``application``, ``task``) in a cluster (0: in none): ``subject`` names it; empty: the
rest, or the cluster itself. Levels are as they were last; None: nobody looked.

In the order of time, so that what is written together lies together."""


class Reporter(Table):
    """A host that has reported: what was counted last, so that nothing is counted twice, and its levels."""

    __tablename__ = "reporter"

    host_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    life: Mapped[str] = mapped_column(String(32))
    number: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[int] = mapped_column(BigInteger, index=True)
    """Seconds since 1970."""
    store_bytes: Mapped[int] = mapped_column(BigInteger)
    store_quota_bytes: Mapped[int] = mapped_column(BigInteger)
    task_bytes: Mapped[int] = mapped_column(BigInteger)
    task_quota_bytes: Mapped[int] = mapped_column(BigInteger)
    tasks: Mapped[int] = mapped_column(BigInteger)


class Job(Table):
    """Something that hosts are to do: cafs/manager/jobs."""

    __tablename__ = "job"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    cluster_id: Mapped[int] = mapped_column(ForeignKey("cluster.id", ondelete="CASCADE"), index=True)
    """Whose hosts do it."""
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What is to be done: of the kind's form."""
    scope: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Which hosts are to do it."""
    concurrency: Mapped[int] = mapped_column()
    """Hosts that do it at once."""
    retries: Mapped[int] = mapped_column()
    """How often a host that failed is told again by itself."""
    timeout_s: Mapped[int] = mapped_column()
    state: Mapped[str] = mapped_column(String(16), index=True)
    why: Mapped[str] = mapped_column(String(1000), default="")
    """It failed; empty: its hosts say more."""
    who: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    ends_by: Mapped[datetime | None] = mapped_column(Moment)
    """When it has begun: what is not done by then has failed."""
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    version: Mapped[int] = mapped_column(default=1)
    """Counts changes of its state: its ETag."""


class JobTarget(Table):
    """One host's part in a job."""

    __tablename__ = "job_target"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    host_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    """It outlives what is known of the host."""
    state: Mapped[str] = mapped_column(String(16), index=True)
    attempt: Mapped[int] = mapped_column(default=0)
    """How often it was told."""
    failures: Mapped[int] = mapped_column(default=0)
    """Since somebody asked for it."""
    done_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    total_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """0: not known yet."""
    why: Mapped[str] = mapped_column(String(1000), default="")
    """Of the last failure."""
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What the host answered, where there is something to be told."""
    worker: Mapped[str | None] = mapped_column(String(32))
    """The replica that does it itself: as long as that lives, nobody else takes it."""
    changed_at: Mapped[datetime] = mapped_column(Moment)


class JobEvent(Table):
    """What happened to a job. Rows are only added."""

    __tablename__ = "job_event"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime] = mapped_column(Moment)
    what: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(String(1000))


class Schedule(Table):
    """A job that is made again and again."""

    __tablename__ = "schedule"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    cluster_id: Mapped[int] = mapped_column(ForeignKey("cluster.id", ondelete="CASCADE"), index=True)
    """As in ``job``."""
    cron: Mapped[str] = mapped_column(String(128))
    timezone: Mapped[str] = mapped_column(String(64))
    job: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As it is sent to make one."""
    enabled: Mapped[bool] = mapped_column()
    next_at: Mapped[datetime] = mapped_column(Moment, index=True)
    last_job_id: Mapped[int | None] = mapped_column()
    """The job that it made last; it may be forgotten by now."""
    who: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    version: Mapped[int] = mapped_column(default=1)
    """Counts changes by people: its ETag."""
