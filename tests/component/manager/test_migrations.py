"""The database's form: made at the first start, by one of several, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, inspect, select

from cafs.core.digest import Digest
from cafs.core.profile import Profile, encode_profile
from cafs.errors import StateError
from cafs.manager.database import Database, parse_database
from cafs.manager.migrate import STEPS, upgrade
from cafs.manager.profiles.sharing import count_layers, pack_digests
from cafs.manager.tables import LearnedDigests, LearnedLayer, LearnedProfile, Table
from tests.support.at_once import at_once
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres
from tests.support.program import ROOT

STEP = """
revision = "9999"
down_revision = "{before}"

def upgrade():
    import os, signal
    import sqlalchemy as sa
    from alembic import op
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    {act}
"""
RUN = """
import sys
from pathlib import Path
from cafs.manager.database import Database, parse_database
from cafs.manager.migrate import upgrade
with Database(parse_database(sys.argv[1], Path(sys.argv[2]))) as database:
    upgrade(database, Path(sys.argv[3]))
"""


def newest() -> str:
    return max(path.stem[1:5] for path in (STEPS / "versions").glob("v*.py"))


def with_step(folder: Path, act: str) -> Path:
    """Our steps, and one more that does ``act`` when it is half done."""
    steps = folder / "steps"
    shutil.copytree(STEPS, steps)
    (steps / "versions" / "v9999_half.py").write_text(STEP.format(before=newest(), act=act))
    return steps


def tables(database: Database) -> set[str]:
    with database.reading() as session:
        return set(inspect(session.connection()).get_table_names())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m" / "manager.db"


def test_the_steps_make_what_the_classes_say(database_address: str, file: Path) -> None:
    with Database(parse_database(database_address, file)) as database:
        upgrade(database)
        with database.reading() as session:
            found, dialect = inspect(session.connection()), session.get_bind().dialect
            made = {
                name: {
                    column["name"]: (column["type"].compile(dialect), column["nullable"])
                    for column in columns
                }
                for name, columns in ((name, found.get_columns(name)) for name in found.get_table_names())
            }
        wanted = {
            name: {
                column.name: (column.type.compile(dialect), bool(column.nullable)) for column in table.columns
            }
            for name, table in Table.metadata.tables.items()
        }
        made.pop("alembic_version")
        assert made == wanted


def test_a_second_upgrade_changes_nothing(database_address: str, file: Path) -> None:
    with Database(parse_database(database_address, file)) as database:
        upgrade(database)
        before = tables(database)
        upgrade(database)
        assert tables(database) == before


def test_what_was_learned_before_can_be_compared(database_address: str, file: Path, tmp_path: Path) -> None:
    """Of the time in which images were not compared: 0008."""
    old = tmp_path / "old"
    shutil.copytree(STEPS, old)
    for step in (old / "versions").glob("v*.py"):
        if step.stem[1:5] > "0008":
            step.unlink()
    layers = tuple(Digest("sha256:" + digit * 64) for digit in "12")
    learned = Profile(layers, ((1, b"b" * 8), (0, b"a" * 8), (1, b"a" * 8), (1, b"c" * 8)), starts=1)
    row = {
        "image": "f" * 64, "name": "n", "starts": 1, "chunks": 4, "frame_bytes": 1, "etag": b"e",
        "document": encode_profile(learned), "learned_at": datetime.now(UTC),
    }  # fmt: skip
    with Database(parse_database(database_address, file)) as database:
        upgrade(database, old)
        with database.writing() as session:
            session.execute(insert(LearnedProfile), [row])
        upgrade(database)
        with database.reading() as session:
            kept = session.get_one(LearnedDigests, "f" * 64)
            counted = count_layers(session, ["f" * 64])
            chunks = {layer.diff_id: layer.chunks for layer in session.scalars(select(LearnedLayer))}
    assert kept.digests == pack_digests(learned) == b"a" * 8 + b"b" * 8 + b"c" * 8
    assert chunks == {layers[0]: 1, layers[1]: 3}
    assert counted["f" * 64].layers == 2


@pytest.mark.parametrize("act", ["os.kill(os.getpid(), signal.SIGKILL)", "raise ArithmeticError"])
def test_an_upgrade_that_is_cut_short_leaves_what_was(
    database_address: str, file: Path, tmp_path: Path, act: str
) -> None:
    with Database(parse_database(database_address, file)) as database:
        upgrade(database)
        before = tables(database)
    steps = with_step(tmp_path, act)
    done = subprocess.run(
        [sys.executable, "-c", RUN, database_address, str(file), str(steps)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == (-signal.SIGKILL if "KILL" in act else 1)
    with Database(parse_database(database_address, file)) as database:
        assert tables(database) == before
        upgrade(database)  # as the next start does
        assert tables(database) == before
        (steps / "versions" / "v9999_half.py").write_text(STEP.format(before=newest(), act=""))
        upgrade(database, steps)
        assert tables(database) == before | {"half"}


def test_replicas_that_start_at_once_upgrade_once(postgres: Postgres) -> None:
    address = postgres.url(postgres.new_database())

    def start() -> None:
        with Database(parse_database(address, Path("/nowhere"))) as database:
            upgrade(database)

    at_once(4, start)
    with Database(parse_database(address, Path("/nowhere"))) as database:
        assert "replica" in tables(database)


def test_a_database_of_a_newer_version_is_refused(database_address: str, file: Path, tmp_path: Path) -> None:
    with Database(parse_database(database_address, file)) as database:
        upgrade(database, with_step(tmp_path, ""))
        before = tables(database)
        with pytest.raises(StateError, match="newer CAFS"):
            upgrade(database)
        assert tables(database) == before
