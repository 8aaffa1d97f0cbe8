"""``cafs snapshotter`` without a mount server: the semantics of containerd's own overlayfs snapshotter.

After containerd's core/snapshots/testsuite; ``tests/e2e/test_snapshotter_oracle.py`` holds both to each
other.
"""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.program import run_cafs
from tests.support.snapshots_client import RefusedError, SnapshotsClient
from tests.support.snapshotter import RunningSnapshotter, mounted, running_snapshotter
from tests.support.systemd import fake_systemd

LABELS = {"containerd.io/snapshot/a": "1", "b": "2"}


@pytest.fixture
def running(short_tmp_path: Path) -> Iterator[RunningSnapshotter]:
    with running_snapshotter(short_tmp_path) as snapshotter:
        yield snapshotter


@pytest.fixture
def client(running: RunningSnapshotter) -> SnapshotsClient:
    return running.client()


def _code(caught: pytest.ExceptionInfo[RefusedError]) -> str:
    assert "\n" not in caught.value.message
    assert caught.value.message
    return caught.value.code


def _layers(client: SnapshotsClient, place: Path, *files: str) -> str:
    """Committed snapshots on one another, each with a file; name of the topmost."""
    parent = ""
    for number, name in enumerate(files):
        with mounted(client.prepare(f"key-{name}", parent), place / "layer") as root:
            (root / name).write_text(f"{number}")
        client.commit(f"name-{name}", f"key-{name}")
        parent = f"name-{name}"
    return parent


def test_basic_life(client: SnapshotsClient, short_tmp_path: Path) -> None:
    target = short_tmp_path / "t"
    with mounted(client.prepare("preparing", labels=LABELS), target) as root:
        (root / "foo").write_text("foo\n")
        (root / "a/b/c").mkdir(parents=True)
    client.commit("committed", "preparing", LABELS)
    info = client.stat("committed")
    assert (info.parent, info.kind, dict(info.labels)) == ("", 3, LABELS)
    with pytest.raises(RefusedError) as caught:
        client.stat("preparing")
    assert _code(caught) == "NOT_FOUND"

    with mounted(client.prepare("next", "committed"), target) as root:
        assert (root / "foo").read_text() == "foo\n"
        (root / "bar").write_text("bar\n")
        (root / "foo").write_text("bar\n")
        (root / "a/b/c").rmdir()
        (root / "a/b").rmdir()
    info = client.stat("next")
    assert (info.parent, info.kind) == ("committed", 2)
    client.commit("committed-next", "next")

    with mounted(client.view("look", "committed-next"), target) as root:
        assert sorted(path.name for path in root.rglob("*")) == ["a", "bar", "foo"]
        assert (root / "foo").read_text() == "bar\n"
        with pytest.raises(OSError, match="Read-only"):
            (root / "foo").write_text("no")
    client.remove("look")
    with pytest.raises(RefusedError, match="cannot remove snapshot committed with child") as caught:
        client.remove("committed")
    assert _code(caught) == "FAILED_PRECONDITION"
    client.remove("committed-next")
    client.remove("committed")
    assert client.list() == []


def test_keys_that_are_taken(client: SnapshotsClient) -> None:
    client.prepare("a")
    client.prepare("b")
    client.commit("c", "b")
    for again in (lambda: client.prepare("a"), lambda: client.view("a"), lambda: client.prepare("c"),
                  lambda: client.commit("c", "a"), lambda: client.commit("a", "a")):  # fmt: skip
        with pytest.raises(RefusedError) as caught:
            again()
        assert _code(caught) == "ALREADY_EXISTS"


def test_what_is_not_there(client: SnapshotsClient) -> None:
    for call in (
        lambda: client.prepare("a", "none"),
        lambda: client.view("a", "none"),
        lambda: client.mounts("none"),
        lambda: client.commit("a", "none"),
        lambda: client.remove("none"),
        lambda: client.stat("none"),
        lambda: client.usage("none"),
        lambda: client.update("none", {}),
    ):
        with pytest.raises(RefusedError) as caught:
            call()
        assert _code(caught) == "NOT_FOUND"
    assert client.list() == []


def test_what_kind_a_snapshot_has_to_be(client: SnapshotsClient) -> None:
    client.prepare("active")
    client.prepare("b")
    client.commit("committed", "b")
    client.view("view", "committed")
    for call, code in (
        (lambda: client.prepare("x", "active"), "INVALID_ARGUMENT"),
        (lambda: client.view("x", "view"), "INVALID_ARGUMENT"),
        (lambda: client.commit("x", "view"), "FAILED_PRECONDITION"),
        (lambda: client.commit("x", "committed"), "FAILED_PRECONDITION"),
        (lambda: client.mounts("committed"), "FAILED_PRECONDITION"),
    ):
        with pytest.raises(RefusedError) as caught:
            call()
        assert _code(caught) == code
    assert client.names() == ["active", "committed", "view"]


def test_bad_requests_are_refused_and_leave_nothing(
    client: SnapshotsClient, running: RunningSnapshotter
) -> None:
    long = "x" * 33000
    client.prepare("there")
    before = sorted(running.root.iterdir())
    for call in (
        lambda: client.prepare(""),
        lambda: client.prepare(long),
        lambda: client.prepare("a", labels={"l": "v" * 4096}),
        lambda: client.view("a", labels={"l" * 5000: ""}),
        lambda: client.commit("", "there"),
        lambda: client.commit(long, "there"),
        lambda: client.commit("n", "there", {"l" * 4096: "v"}),
        lambda: client.update("there", {}, ["kind"]),
        lambda: client.update("there", {}, ["labels", "name"]),
        lambda: client.update("there", {"a": "v" * 4096}),
        lambda: client.prepare("a", labels={"containerd.io/snapshot/uidmapping": "0:0"}),
        lambda: client.prepare("a", labels={"containerd.io/snapshot/gidmapping": "1:0:5"}),
        lambda: client.list("name=="),
        lambda: client.list("name", 'labels."'),
    ):
        with pytest.raises(RefusedError) as caught:
            call()
        assert _code(caught) == "INVALID_ARGUMENT"
    client.cleanup()
    assert client.names() == ["there"]
    assert sorted(running.root.iterdir()) == before


def test_names_are_any_text(client: SnapshotsClient, running: RunningSnapshotter) -> None:
    names = [
        "../../etc",
        "/",
        "k8s.io/7/a b",
        "ünïcode-\u2028",
        "'; DROP TABLE snapshot; --",
        "nul\0in it",
        "%s",
        ".",
    ]
    for name in names:
        client.prepare(name + "-key")
        client.commit(name, name + "-key")
    assert client.names() == sorted(names, key=str.encode)
    assert not any(name in str(path) for path in running.root.rglob("*") for name in ("etc", "k8s"))


def test_labels(client: SnapshotsClient) -> None:
    client.prepare("a", labels={"x": "1", "y": "2", "empty": ""})
    assert dict(client.stat("a").labels) == {"x": "1", "y": "2"}
    assert dict(client.update("a", {"z": "3", "x": "9"}, ["labels.z", "labels.y"]).labels) == {
        "x": "1",
        "z": "3",
    }
    assert dict(client.update("a", {"k.with.dots": "v"}, ["labels.k.with.dots"]).labels)["k.with.dots"] == "v"
    assert dict(client.update("a", {"only": "this"}, ["labels"]).labels) == {"only": "this"}
    assert dict(client.update("a", {"or": "this", "not": ""}).labels) == {"or": "this"}
    before = client.stat("a")
    client.commit("b", "a", {"new": "1"})
    after = client.stat("b")
    assert dict(after.labels) == {"new": "1"}  # not inherited
    assert after.created_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
    assert after.created_at == after.updated_at
    updated = client.update("b", {})
    assert updated.created_at == after.created_at
    assert updated.updated_at.ToNanoseconds() > after.updated_at.ToNanoseconds()
    assert client.stat("b") == updated


def test_list_comes_in_parts(client: SnapshotsClient) -> None:
    for number in range(205):
        client.view(f"v{number:03}", labels={"even": "yes"} if number % 2 == 0 else {})
    parts = client.call("List", filters=[])
    assert [len(part.info) for part in parts] == [100, 100, 5]
    assert client.names() == [f"v{number:03}" for number in range(205)]
    assert client.names("labels.even==yes,name~=^v00") == ["v000", "v002", "v004", "v006", "v008"]
    assert client.names("name==v001", "name==v003,kind==view", "kind==active") == ["v001", "v003"]


def test_commit_counts_the_latest_snapshot_of_a_key(client: SnapshotsClient, short_tmp_path: Path) -> None:
    """Also after others of that key were removed, and after a commit that was refused."""
    client.prepare("key")
    client.remove("key")
    with mounted(client.prepare("key"), short_tmp_path / "t") as root:
        (root / "one").write_bytes(bytes(4096))
    expected = client.usage("key")
    client.prepare("other")
    client.commit("taken", "other")
    with pytest.raises(RefusedError, match="already exists"):
        client.commit("taken", "key")
    client.commit("name", "key")
    assert client.usage("name") == expected
    client.prepare("key")
    client.remove("key")
    with pytest.raises(RefusedError) as caught:
        client.commit("nothing", "key")
    assert _code(caught) == "NOT_FOUND"


def test_usage_counts_the_upper_directory(client: SnapshotsClient, short_tmp_path: Path) -> None:
    (mount,) = client.prepare("a")
    assert client.usage("a")[1] == 1
    with mounted([mount], short_tmp_path / "t") as root:
        (root / "file").write_bytes(b"x" * 100_000)
        (root / "link").hardlink_to(root / "file")
        (root / "sparse").touch()
        os.truncate(root / "sparse", 1 << 30)
        (root / "dir").mkdir()
    paths = [Path(mount.source), *Path(mount.source).rglob("*")]
    blocks = {path.lstat().st_ino: path.lstat().st_blocks * 512 for path in paths}
    expected = (sum(blocks.values()), 4)
    assert client.usage("a") == expected
    client.commit("b", "a")
    assert client.usage("b") == expected
    client.view("v", "b")
    assert client.usage("v") == (0, 0)
    client.prepare("c", "b")
    assert client.usage("c")[1] == 1


def test_root_of_a_layer_belongs_to_whom_the_layer_below_says(client: SnapshotsClient) -> None:
    (mount,) = client.prepare("a")
    assert stat.S_IMODE(Path(mount.source).stat().st_mode) == 0o755
    os.chown(mount.source, 1234, 4321)
    client.commit("b", "a")
    client.prepare("c", "b")
    (upper,) = [
        o.removeprefix("upperdir=") for o in client.mounts("c")[0].options if o.startswith("upperdir=")
    ]
    assert (Path(upper).stat().st_uid, Path(upper).stat().st_gid) == (1234, 4321)


MAPS = {
    "containerd.io/snapshot/uidmapping": "0:7000:100",
    "containerd.io/snapshot/gidmapping": "0:8000:100",
}
MAPPING = ["uidmap=0:7000:100", "gidmap=0:8000:100"]


def test_mapped_ids(client: SnapshotsClient) -> None:
    (mount,) = client.prepare("a", labels=MAPS)
    assert list(mount.options) == [*MAPPING, "rw", "rbind"]
    assert (Path(mount.source).stat().st_uid, Path(mount.source).stat().st_gid) == (7000, 8000)
    client.prepare("image")
    client.commit("layer", "image")
    (mount,) = client.prepare("c", "layer", MAPS)
    assert list(mount.options)[:2] == MAPPING
    assert client.mounts("c") == [mount]


def test_ids_of_a_copy_that_containerd_made_are_not_mapped_again(client: SnapshotsClient) -> None:
    """As its client does since 1.7 where a snapshotter has not the capability."""
    (mount,) = client.prepare("layer-7000-8000-remap")
    os.chown(mount.source, 7000, 8000)
    client.commit("layer-7000-8000", "layer-7000-8000-remap")
    (mount,) = client.prepare("pod", "layer-7000-8000", MAPS)
    assert not [option for option in mount.options if "map=" in option]
    assert client.mounts("pod") == [mount]


def test_parent_at_commit(client: SnapshotsClient, short_tmp_path: Path) -> None:
    base = _layers(client, short_tmp_path, "base")
    with mounted(client.prepare("loose"), short_tmp_path / "t") as root:
        (root / "more").write_text("more")
    with pytest.raises(RefusedError) as caught:
        client.commit("n", "loose", parent="none")
    assert _code(caught) == "NOT_FOUND"
    with pytest.raises(RefusedError) as caught:
        client.commit("n", "loose", parent="loose")
    assert _code(caught) == "NOT_FOUND"
    client.prepare("active")
    with pytest.raises(RefusedError) as caught:
        client.commit("n", "loose", parent="active")
    assert _code(caught) == "FAILED_PRECONDITION"
    client.commit("rebased", "loose", parent=base)
    assert client.stat("rebased").parent == base
    with mounted(client.view("look", "rebased"), short_tmp_path / "t") as root:
        assert sorted(path.name for path in root.iterdir()) == ["base", "more"]
    client.prepare("c", "rebased")
    with pytest.raises(RefusedError) as caught:
        client.commit("n", "c", parent=base)
    assert _code(caught) == "INVALID_ARGUMENT"


def test_a_deleted_file_does_not_show_in_a_view_of_one_layer(
    client: SnapshotsClient, short_tmp_path: Path
) -> None:
    with mounted(client.prepare("a"), short_tmp_path / "t") as root:
        os.mknod(root / "gone", 0o600 | stat.S_IFCHR, 0)  # what overlayfs leaves for a deleted file
        (root / "there").touch()
    client.commit("b", "a")
    with mounted(client.view("v", "b"), short_tmp_path / "t") as root:
        assert [path.name for path in root.iterdir()] == ["there"]


def test_128_layers(client: SnapshotsClient, short_tmp_path: Path) -> None:
    top = _layers(client, short_tmp_path, *(f"{number:03}" for number in range(128)))
    for mounts in (client.prepare("rw", top), client.view("ro", top)):
        with mounted(mounts, short_tmp_path / "t") as root:
            assert sorted(path.name for path in root.iterdir()) == [f"{number:03}" for number in range(128)]


def test_many_at_once_want_the_same_key(client: SnapshotsClient, running: RunningSnapshotter) -> None:
    client.prepare("base")
    client.commit("parent", "base")
    calls: dict[str, Callable[[], object]] = {
        "prepare": lambda: client.prepare("key", "parent"),
        "commit": lambda: client.commit("name", "key"),
        "remove name": lambda: client.remove("name"),
        "remove key": lambda: client.remove("key"),
        "usage": lambda: client.usage("key"),
    }

    def attempt(number: int) -> list[tuple[str, str]]:
        answers = []
        order = [*calls]
        random.Random(number).shuffle(order)
        for what in order:
            try:
                calls[what]()
                answers.append((what, "OK"))
            except RefusedError as e:
                answers.append((what, e.code))
        return answers

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answers in pool.map(attempt, range(96)) for answer in answers]
    assert {code for _what, code in answers} <= {"OK", "ALREADY_EXISTS", "NOT_FOUND"}
    done = Counter(what for what, code in answers if code == "OK")
    there = {name: int(name in client.names()) for name in ("key", "name")}
    assert done["prepare"] == done["commit"] + done["remove key"] + there["key"]
    assert done["commit"] == done["remove name"] + there["name"]
    assert done["remove key"] > 0
    assert done["remove name"] > 0
    client.cleanup()
    directories = [path for path in running.root.iterdir() if path.name.isdecimal()]
    assert len(directories) == len(client.names())


def test_removed_directories_are_deleted(client: SnapshotsClient, running: RunningSnapshotter) -> None:
    (mount,) = client.prepare("a")
    Path(mount.source, "file").write_text("x")
    client.remove("a")
    client.cleanup()
    assert not [path for path in running.root.iterdir() if path.name.isdecimal()]
    assert list((running.root / "d").iterdir()) == []


def test_two_on_one_root_or_socket(running: RunningSnapshotter, short_tmp_path: Path) -> None:
    other = short_tmp_path / "other"
    said = run_cafs("snapshotter", "--root", running.root, "--address", other / "s.sock", code=1).err
    assert "another snapshotter has" in said
    said = run_cafs("snapshotter", "--root", other, "--address", running.address, code=1).err
    assert "somebody serves on" in said
    (short_tmp_path / "file").write_text("mine")
    said = run_cafs("snapshotter", "--root", other, "--address", short_tmp_path / "file", code=1).err
    assert "is no socket" in said
    assert (short_tmp_path / "file").read_text() == "mine"
    assert running.client().list() == []


def test_a_stale_socket_is_replaced(short_tmp_path: Path) -> None:
    running = RunningSnapshotter(short_tmp_path)
    try:
        running.start()
        assert stat.S_IMODE(running.address.stat().st_mode) == 0o600
        running.client().prepare("a")
        running.kill()
        assert running.address.is_socket()
        running.start()
        assert running.client().names() == ["a"]
    finally:
        running.clean_up()


@pytest.mark.parametrize("end", [RunningSnapshotter.kill, RunningSnapshotter.stop])
def test_a_call_between_two_snapshotters_waits(
    short_tmp_path: Path, end: Callable[[RunningSnapshotter], object]
) -> None:
    """As containerd's garbage collection does, which asks once."""
    with fake_systemd(short_tmp_path / "n") as systemd:
        running = RunningSnapshotter(short_tmp_path, systemd=systemd)
        try:
            client = running.start().client()
            client.prepare("a")
            client.prepare("b")
            end(running)
            with ThreadPoolExecutor(1) as threads:
                removed = threads.submit(running.client().remove, "a")
                running.start()
                removed.result(60)
            assert running.client().names() == ["b"]
            client.remove("b")  # the older connection was broken, and is made anew
        finally:
            running.clean_up()
