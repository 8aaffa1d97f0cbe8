"""The same random calls for our snapshotter and for containerd's own overlayfs one: every answer is compared.

Three are driven: overlayfs in a real containerd (the oracle), ours as a proxy plugin of the same containerd,
and ours on its own socket. containerd puts its own metadata in front of a snapshotter, so that the last
differs from the others where a call has two things wrong at once: which of them is told (``_TOLD_FIRST``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.containerd import Containerd
from tests.support.snapshots_client import RefusedError, SnapshotsClient
from tests.support.snapshotter import RunningSnapshotter, mounted, running_snapshotter

KEYS = st.sampled_from(["a", "b", "c", "k/d", "sha256:e"])
PARENTS = st.one_of(st.just(""), KEYS)
LABELS = st.dictionaries(
    st.sampled_from(["containerd.io/snapshot/x", "containerd.io/snapshot/y.z", "other", "labels.x"]),
    st.sampled_from(["", "1", "two words", "x" * 4090]),
    max_size=3,
)
MASKS = st.lists(
    st.sampled_from(
        ["labels", "labels.containerd.io/snapshot/x", "labels.other", "labels.none", "kind", "name", ""]
    ),
    max_size=2,
)
FILTERS = st.lists(
    st.sampled_from(
        [
            "name==a", "name!=a", "name~=^[ab]$", 'name=="k/d"', "kind==active", "kind==committed,parent!=a",
            "parent==b", "labels.other", 'labels."containerd.io/snapshot/x"==1', 'labels."labels.x"',
            "labels.other~=/two.words/", "name==", "name==a,", "labels.|x|", "nothing", 'labels."containerd',
        ]
    ),
    max_size=2,
)  # fmt: skip
_TOLD_FIRST = {
    ("Prepare", "ALREADY_EXISTS"): {
        "NOT_FOUND",
        "INVALID_ARGUMENT",
    },  # the key is taken; and the parent is wrong
    ("View", "ALREADY_EXISTS"): {"NOT_FOUND", "INVALID_ARGUMENT"},
    ("Commit", "ALREADY_EXISTS"): {"NOT_FOUND"},  # the name is taken; and there is no such key
    ("List", "UNKNOWN"): {"INVALID_ARGUMENT"},  # containerd forgets to translate the error
    ("Prepare", "UNKNOWN"): {"INVALID_ARGUMENT"},
}


@dataclass
class Rivals:
    """Those who are compared."""

    folder: Path
    containerd: Containerd
    snapshotter: RunningSnapshotter
    numbers: Iterator[int]

    def clients(self) -> tuple[SnapshotsClient, SnapshotsClient]:
        """Of overlayfs and ours behind containerd, in a namespace of their own, held by a lease."""
        namespace = f"example{next(self.numbers)}"
        self.containerd.ctr("--namespace", namespace, "leases", "create", "--id", "all")
        overlayfs, ours = (
            SnapshotsClient(self.containerd.address, snapshotter=name, namespace=namespace, lease="all")
            for name in ("overlayfs", "cafs")
        )
        return overlayfs, ours


@pytest.fixture(scope="module")
def rivals(tmp_path_factory: pytest.TempPathFactory, long_lived_processes: set[int]) -> Iterator[Rivals]:
    with tempfile.TemporaryDirectory(prefix="") as folder:
        place = Path(folder)
        (place / "1").mkdir()
        (place / "2").mkdir()
        with running_snapshotter(place / "1") as proxied, running_snapshotter(place / "2") as direct:
            containerd = Containerd(place / "c", {"cafs": proxied.address})
            try:
                containerd.start()
                long_lived_processes |= {containerd.pid, proxied.pid, direct.pid}
                yield Rivals(place, containerd, direct, count())
            finally:
                containerd.clean_up()


@dataclass(frozen=True)
class Answer:
    """What a call came to, without what must differ: paths and times."""

    code: str
    value: object = None


def _answer(call: Callable[[], object]) -> Answer:
    try:
        return Answer("OK", call())
    except RefusedError as e:
        return Answer(e.code)


def _info(info: Any) -> tuple[object, ...]:
    created, updated = info.created_at.ToNanoseconds(), info.updated_at.ToNanoseconds()
    assert 0 < created <= updated
    return info.name, info.parent, info.kind, dict(info.labels), created == updated


def _mounts(mounts: list[Any]) -> object:
    """Kinds, options without paths, number of layers; a view of one may be a bind mount or an overlay."""
    (mount,) = mounts
    plain = {option for option in mount.options if "=" not in option or option == "index=off"}
    paths = dict(option.split("=", 1) for option in mount.options if "dir=" in option)
    lower = [path for path in paths.get("lowerdir", "").split(":") if path and not path.endswith("/e")]
    if mount.type == "bind" and "ro" in mount.options:
        return "look"
    if mount.type == "overlay" and "upperdir" not in paths and len(lower) == 1:
        return "look"
    return mount.type, frozenset(plain), frozenset(paths), len(lower)


def _tree(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        known = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path.relative_to(root))] = (known.st_mode, known.st_uid, known.st_nlink, content)
    return found


class SameAnswers(RuleBasedStateMachine):
    """One example: a namespace of containerd's, and our own socket."""

    rivals: Rivals

    @initialize()
    def begin(self) -> None:
        self.overlayfs, self.proxied = self.rivals.clients()
        self.direct = self.rivals.snapshotter.client()
        self.place = self.rivals.folder / "t"

    def _compare(self, name: str, call: Callable[[SnapshotsClient], object]) -> Answer:
        oracle, proxied, direct = (
            _answer(partial(call, client)) for client in (self.overlayfs, self.proxied, self.direct)
        )
        assert proxied == oracle
        if direct != oracle:
            assert direct.code in _TOLD_FIRST.get((name, oracle.code), set()), (direct, oracle)
        return oracle

    @rule(key=KEYS, parent=PARENTS, labels=LABELS)
    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> None:
        self._compare("Prepare", lambda client: _mounts(client.prepare(key, parent, labels)))

    @rule(key=KEYS, parent=PARENTS, labels=LABELS)
    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> None:
        self._compare("View", lambda client: _mounts(client.view(key, parent, labels)))

    @rule(name=KEYS, key=KEYS, labels=LABELS)
    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        self._compare("Commit", lambda client: client.commit(name, key, labels))

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        self._compare("Remove", lambda client: client.remove(key))

    @rule(key=KEYS, labels=LABELS, mask=MASKS)
    def update(self, key: str, labels: Mapping[str, str], mask: list[str]) -> None:
        self._compare("Update", lambda client: _info(client.update(key, labels, mask)))

    @rule(key=KEYS)
    def look_up(self, key: str) -> None:
        self._compare("Stat", lambda client: _info(client.stat(key)))
        self._compare("Mounts", lambda client: _mounts(client.mounts(key)))
        self._compare("Usage", lambda client: client.usage(key))

    @rule(filters=FILTERS)
    def list(self, filters: list[str]) -> None:
        self._compare("List", lambda client: [_info(info) for info in client.list(*filters)])

    @rule()
    def clean_up(self) -> None:
        """containerd offers it to its garbage collector only."""
        self.direct.cleanup()

    @rule(key=KEYS, size=st.sampled_from([0, 1, 5000, 70_000]), number=st.integers(0, 3))
    def change_files(self, key: str, size: int, number: int) -> None:
        """Write, link and delete within an active snapshot; then everything below it is seen as well."""

        def change(client: SnapshotsClient) -> object:
            mounts = client.mounts(key)
            with mounted(mounts, self.place) as root:
                if client.stat(key).kind == 2:
                    (root / "dir").mkdir(exist_ok=True)
                    (root / f"dir/{number}").write_bytes(b"x" * size)
                    (root / "link").unlink(missing_ok=True)
                    os.link(root / f"dir/{number}", root / "link")
                    (root / f"dir/{(number + 1) % 4}").unlink(missing_ok=True)
                return _tree(root)

        self._compare("Mounts", change)
        self._compare("Usage", lambda client: client.usage(key))

    def teardown(self) -> None:
        if not hasattr(self, "direct"):
            return
        self._compare("List", lambda client: [_info(info) for info in client.list()])
        infos = {info.name: info for info in self.direct.list()}
        while infos:  # children first
            parents = {info.parent for info in infos.values()}
            for name in [name for name in infos if name not in parents]:
                self.direct.remove(name)
                del infos[name]
        for client in (self.overlayfs, self.proxied, self.direct):
            client.close()


@pytest.mark.timeout(300)
def test_answers_as_overlayfs_does(rivals: Rivals) -> None:
    machine = type("Machine", (SameAnswers,), {"rivals": rivals})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
