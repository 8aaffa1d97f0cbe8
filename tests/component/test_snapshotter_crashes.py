"""What the snapshotter still knows after kill -9, a damaged database and a full disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cafs.errors import StorageError
from cafs.snapshotter.ledger import Ledger
from cafs.snapshotter.opening import open_metadata, prepare_root
from cafs.snapshotter.reserve import Reserve
from cafs.snapshotter.snapshot import Kind, LayerSource, Usage
from tests.support.logs import ExpectedLogs
from tests.support.program import run_cafs
from tests.support.snapshots_client import RefusedError, SnapshotsClient
from tests.support.snapshotter import RunningSnapshotter, mounted, running_snapshotter

KILLS = 12
WORKERS = 4
FLIPS = 150
FULL = "RESOURCE_EXHAUSTED"


@pytest.fixture
def running(short_tmp_path: Path) -> Iterator[RunningSnapshotter]:
    running = RunningSnapshotter(short_tmp_path)
    yield running
    running.clean_up()


def _worker(client: SnapshotsClient, number: int, seed: int, promised: dict[str, bool]) -> None:
    """Make, commit and remove snapshots until the server is gone; write down what was promised.

    ``promised`` says of a name whether it is there; names under way when the end comes are not in it.
    """
    rng = random.Random(seed)
    for turn in range(10_000):
        key, name = f"k{number}-{turn}", f"n{number}-{turn}"
        try:
            client.prepare(key, labels={"turn": str(turn)})
            client.commit(name, key)
            promised[name] = True
            if rng.random() < 0.5:
                del promised[name]
                client.remove(name)
                promised[name] = False
        except RefusedError as e:
            if e.code == "UNAVAILABLE":
                return
            raise


def test_what_was_answered_outlives_any_kill(running: RunningSnapshotter) -> None:
    rng = random.Random(4)
    promised: dict[str, bool] = {}
    for round_ in range(KILLS):
        running.start()
        threads = [
            threading.Thread(
                target=_worker, args=(running.client(), f"{round_}-{worker}", rng.random(), promised)
            )
            for worker in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        client = running.client()
        goal = len(promised) + rng.randrange(1, 60)
        while len(promised) < goal:
            client.list("name==none")  # time passes in calls, and none is lost on waiting
        running.kill()
        for thread in threads:
            thread.join()
    running.start()
    there = set(running.client().names())
    assert {name for name, is_there in promised.items() if is_there} <= there
    assert not {name for name, is_there in promised.items() if not is_there} & there
    running.client().cleanup()
    directories = [path for path in running.root.iterdir() if path.name.isdecimal()]
    assert len(directories) == len(there)
    assert all((path / "record").is_file() and (path / "fs").is_dir() for path in directories)


def _populate(client: SnapshotsClient, place: Path) -> list[object]:
    """Snapshots of each kind on one another; what List says of them."""
    parent = ""
    for number in range(4):
        with mounted(client.prepare(f"key{number}", parent), place / "t") as root:
            (root / f"file{number}").write_text(f"content {number}")
        client.commit(f"name{number}", f"key{number}", {"containerd.io/snapshot/number": str(number)})
        parent = f"name{number}"
    client.prepare("container", parent, {"a": "label"})
    client.view("look", "name1")
    client.update("name0", {"updated": "yes"}, ["labels.updated"])
    return client.list()


def _empty(database: Path) -> None:
    database.write_bytes(b"")


def _scribble(database: Path) -> None:
    content = bytearray(database.read_bytes())
    for start in range(100, len(content), 512):
        content[start : start + 256] = random.Random(start).randbytes(256)
    database.write_bytes(content)


def _replace(database: Path) -> None:
    database.write_bytes(b"this is no database\n" * 1000)


def _drop_table(database: Path) -> None:
    subprocess.run(["python3", "-c", "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
                    "db.execute('PRAGMA foreign_keys = OFF'); db.execute('DROP TABLE snapshot'); db.commit()",
                    database], check=True)  # fmt: skip


def _spoil_row(database: Path) -> None:
    subprocess.run(["python3", "-c", "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
                    "db.execute('UPDATE snapshot SET labels = ?', ('no json',)); db.commit()",
                    database], check=True)  # fmt: skip


def _flip(database: Path, text: bytes, bit: int) -> None:
    """Where the text is stored last: the row, not its index; for the schema there is only one place."""
    content = bytearray(database.read_bytes())
    content[content.rindex(text) + 2] ^= bit
    database.write_bytes(content)


def _flip_name(database: Path) -> None:
    _flip(database, b"container", 4)


def _flip_label(database: Path) -> None:
    _flip(database, b"containerd.io/snapshot/number", 4)


def _no_utf8_in_row(database: Path) -> None:
    _flip(database, b"containerd.io/snapshot/number", 0x80)


def _no_utf8_in_schema(database: Path) -> None:
    _flip(database, b"CREATE TABLE snapshot", 0x80)


DAMAGE = [
    *(Path.unlink, _empty, _scribble, _replace, _drop_table, _spoil_row),
    *(_flip_name, _flip_label, _no_utf8_in_row, _no_utf8_in_schema),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda function: function.__name__.strip("_"))
def test_a_damaged_database_is_made_anew(running: RunningSnapshotter, damage: Callable[[Path], None]) -> None:
    running.start()
    before = _populate(running.client(), running.folder)
    running.stop()
    damage(running.root / "metadata.db")
    running.start()
    client = running.client()
    assert client.list() == before
    assert "made anew from the records of 6 snapshots" in running.log
    with mounted(client.mounts("container"), running.folder / "t") as root:
        assert {path.name: path.read_text() for path in root.iterdir()} == {
            f"file{number}": f"content {number}" for number in range(4)
        }
    (mount,) = client.prepare("new")
    assert int(Path(mount.source).parent.name) > 1000  # ids that were used before are not used again
    client.remove("look")
    running.stop()
    running.start()
    assert {"container", "new"} <= set(running.client().names())


def test_no_flipped_bit_is_believed(short_tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    """Any bit of the file: the snapshots are as before, or the start is refused."""
    expected_logs.expect("made anew from the records of 8 snapshots")
    paths = prepare_root(short_tmp_path / "s")
    metadata = open_metadata(paths)
    ledger = Ledger(metadata, paths, lambda: 7, frozenset, Reserve(paths.reserve))
    parent = ""
    for number in range(6):
        made = ledger.create(Kind.ACTIVE, f"key{number}", parent, {})
        labels = {"containerd.io/a": f"label {number}"}
        ledger.commit(f"name{number}", f"key{number}", parent, labels, place=made.place, usage=Usage())
        parent = f"name{number}"
    layer = ledger.put_layer("ab" * 32, "layers/ab", LayerSource("i", "sha256:1", "sha256:2", "sha256:3"))
    ledger.add_lazy("sha256:3", parent, {}, layer)
    ledger.create(Kind.ACTIVE, "container", parent, {})
    before = list(metadata.rows()), metadata.layers()
    metadata.close()
    database, rng = paths.root / "metadata.db", random.Random(6)
    good = database.read_bytes()
    places = [at for at, byte in enumerate(good) if byte]
    noticed = 0
    for _ in range(FLIPS):
        damaged = bytearray(good)
        damaged[rng.choice(places)] ^= 1 << rng.randrange(8)
        for file in paths.root.glob("metadata.db*"):
            file.unlink()
        database.write_bytes(damaged)
        if damaged[60:64] > good[60:64]:  # the number of the format
            with pytest.raises(StorageError, match="made by a newer CAFS"):
                open_metadata(paths)
            continue
        metadata = open_metadata(paths)
        assert (list(metadata.rows()), metadata.layers()) == before
        metadata.close()
        noticed += bool(list(paths.root.glob("*.damaged-*")))
    assert noticed > FLIPS / 2


def _commit_more(client: SnapshotsClient, place: Path) -> None:
    for number in range(3):
        client.prepare(f"k{number}")
        client.commit(f"later{number}", f"k{number}")


def _commit_the_container(client: SnapshotsClient, place: Path) -> None:
    client.commit("container image", "container")


def _update(client: SnapshotsClient, place: Path) -> None:
    client.update("name0", {"updated": "again"}, ["labels.updated"])


def _start_a_container(client: SnapshotsClient, place: Path) -> None:
    with mounted(client.prepare("second", "name3"), place / "t") as root:
        (root / "precious").write_text("written by a container")


LATER = [_commit_more, _commit_the_container, _update, _start_a_container]


@pytest.mark.parametrize("later", LATER, ids=lambda function: function.__name__.strip("_"))
def test_an_old_copy_of_the_database_loses_nothing(
    running: RunningSnapshotter, later: Callable[[SnapshotsClient, Path], None]
) -> None:
    running.start()
    _populate(running.client(), running.folder)
    running.stop()
    database, old = running.root / "metadata.db", running.folder / "old.db"
    shutil.copy(database, old)
    running.start()
    client = running.client()
    later(client, running.folder)
    after = client.list()
    files = set(running.root.rglob("fs/*"))
    running.stop()
    shutil.copy(old, database)
    running.start()
    assert running.client().list() == after
    assert set(running.root.rglob("fs/*")) == files
    assert "it is older than the record of snapshot" in running.log


def test_records_of_an_older_cafs_are_understood(running: RunningSnapshotter) -> None:
    """Without generation and checksum, and beside a database that lacks them, too."""
    running.start()
    before = _populate(running.client(), running.folder)
    running.stop()
    for record in running.root.glob("*/record"):
        fields = json.loads(record.read_text())
        del fields["checksum"], fields["snapshot"]["generation"]
        record.write_text(json.dumps({**fields, "version": 1}))
    database = sqlite3.connect(running.root / "metadata.db")
    database.execute("PRAGMA user_version = 1")
    database.close()
    running.start()
    assert running.client().list() == before
    assert "an older CAFS made it" in running.log


@pytest.mark.parametrize("record", ["", "{", '{"version": 1}'])
def test_a_damaged_record_too_is_a_clear_refusal(running: RunningSnapshotter, record: str) -> None:
    running.start()
    before = _populate(running.client(), running.folder)
    running.stop()
    database = running.root / "metadata.db"
    kept = running.folder / "kept.db"
    shutil.copy(database, kept)
    _replace(database)
    record_file = running.root / "2" / "record"
    good = record_file.read_text()
    record_file.write_text(record)
    files = sorted(running.root.rglob("*"))
    said = run_cafs(*running.command()[3:], code=1).err
    assert "and so is the record of snapshot 2" in said
    assert "bring back a copy of the database" in said
    assert sorted(running.root.rglob("*")) == files  # nothing was touched
    # Either helps: the record, or the database, which then mends the record.
    if record:
        record_file.write_text(good)
    else:
        shutil.copy(kept, database)
    running.start()
    assert running.client().list() == before
    assert record_file.read_text() == good


def test_a_newer_database_is_refused(running: RunningSnapshotter) -> None:
    running.start()
    running.stop()
    set_version = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('PRAGMA user_version = 99')"
    )
    subprocess.run(["python3", "-c", set_version, running.root / "metadata.db"], check=True)
    assert "made by a newer CAFS" in run_cafs(*running.command()[3:], code=1).err


def test_a_full_disk(short_tmp_path: Path) -> None:
    root = short_tmp_path / "s"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", root], check=True)
    try:
        with running_snapshotter(short_tmp_path) as running:
            client = running.client()
            client.prepare("a")
            filler = root / "filler"
            with pytest.raises(OSError, match="No space"):
                filler.write_bytes(bytes(8 << 20))
            refused = set()
            for number in range(200):
                try:
                    client.prepare(f"b{number}", labels={"x": "y" * 4000})
                except RefusedError as e:
                    refused.add(e.code)
            assert refused == {"RESOURCE_EXHAUSTED"}
            assert "a" in client.names()
            filler.unlink()
            client.prepare("c")
            client.commit("d", "c")
            names = client.names()
            client.cleanup()
            running.kill()
            running.start()
            assert running.client().names() == names
    finally:
        if root.is_mount():
            subprocess.run(["umount", "-l", root], check=True)


def _mount_small(filesystem: str, folder: Path, root: Path) -> None:
    root.mkdir()
    if filesystem == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", root], check=True)
        return
    image = folder / "image"
    image.touch()
    os.truncate(image, 32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, root], check=True)


def _fill(file: Path) -> None:
    for size in (1 << 20, 1 << 16, 4096, 1):
        with file.open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(size))


@pytest.mark.parametrize("filesystem", ["tmpfs", "ext4"])
def test_remove_works_on_a_full_disk(short_tmp_path: Path, filesystem: str) -> None:
    root = short_tmp_path / "s"
    _mount_small(filesystem, short_tmp_path, root)
    try:
        with running_snapshotter(short_tmp_path) as running:
            for number in range(12):
                running.client().prepare(f"a{number}")
            filler, labels, refused = root / "filler", {"x": "y" * 4000}, []
            for number in range(12):
                if number % 4 == 0:
                    _fill(filler)
                    running.stop()
                    running.start()
                client = running.client()
                _fill(filler)
                client.remove(f"a{number}")
                _fill(filler)
                for method, *arguments in (
                    ("prepare", f"b{number}", "", labels),
                    ("view", f"c{number}", "", labels),
                    ("update", "a11", labels, ["labels.x"]),
                    ("commit", f"d{number}", "a11", labels),
                ):
                    try:
                        getattr(client, method)(*arguments)
                    except RefusedError as e:
                        refused.append((method, e.code))
            assert set(refused) >= {(name, FULL) for name in ("prepare", "view", "update", "commit")}
            assert {code for _method, code in refused} <= {FULL, "NOT_FOUND"}  # a11 goes at last
            filler.unlink()
            client.cleanup()
            assert (root / "reserve").stat().st_blocks * 512 >= 4 << 20
            client.prepare("new")
    finally:
        if root.is_mount():
            subprocess.run(["umount", "-l", root], check=True)
