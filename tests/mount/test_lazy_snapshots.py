"""Lazy layers in the snapshotter, over real EROFS mounts on FUSE; the mount server is a scripted one."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cafs.control_socket.protocol import Reason
from tests.support.fake_mountd import FakeMountd, digest_of, labels_for, make_erofs, whiteout
from tests.support.mounts import mounts_below
from tests.support.patience import PATIENCE_S
from tests.support.snapshots_client import RefusedError, SnapshotsClient
from tests.support.snapshotter import RunningSnapshotter, mounted, running_snapshotter

REF = "containerd.io/snapshot.ref"


def _base(tree: Path) -> None:
    (tree / "etc").mkdir()
    (tree / "etc/name").write_text("base")
    (tree / "etc/gone").write_text("soon")
    (tree / "dir").mkdir()
    (tree / "dir/below").write_text("below")
    (tree / "setuid").write_text("#!/bin/sh\n")
    (tree / "setuid").chmod(0o4755)
    os.chown(tree, 12, 34)


def _top(tree: Path) -> None:
    (tree / "etc").mkdir()
    (tree / "etc/name").write_text("top")
    whiteout(tree / "etc/gone")
    (tree / "dir").mkdir()
    os.setxattr(tree / "dir", "trusted.overlay.opaque", b"y")
    (tree / "dir/above").write_text("above")


def _hostile(tree: Path) -> None:
    """What an index from outside might hold to reach into other layers' files."""
    (tree / "evil").mkdir()
    os.setxattr(tree / "evil", "trusted.overlay.redirect", b"/etc")
    (tree / "meta").write_text("own data")
    os.setxattr(tree / "meta", "trusted.overlay.metacopy", b"")
    os.setxattr(tree / "meta", "trusted.overlay.redirect", b"/etc/name")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("erofs")
    fills = {"base": _base, "top": _top, "hostile": _hostile}
    return {name: make_erofs(place, name, fill) for name, fill in fills.items()}


@pytest.fixture
def mountd(short_tmp_path: Path, images: dict[str, Path]) -> Iterator[FakeMountd]:
    with FakeMountd(short_tmp_path / "run/mountd", images).serving() as fake:
        yield fake


@pytest.fixture
def running(short_tmp_path: Path, mountd: FakeMountd) -> Iterator[RunningSnapshotter]:
    with running_snapshotter(short_tmp_path) as snapshotter:
        yield snapshotter
        _remove_all(snapshotter.client())


def _remove_all(client: SnapshotsClient) -> None:
    infos = {info.name: info for info in client.list()}
    while infos:  # children first
        parents = {info.parent for info in infos.values()}
        for name in [name for name in infos if name not in parents]:
            client.remove(name)
            del infos[name]
    client.cleanup()


@pytest.fixture
def client(running: RunningSnapshotter) -> SnapshotsClient:
    return running.client()


def _prepare_lazily(client: SnapshotsClient, layer: str, parent: str = "", target: str = "") -> str:
    """As containerd does: what it finds afterwards is the parent of the next layer."""
    labels = labels_for(layer, target or f"chain of {layer} on {parent}")
    with pytest.raises(RefusedError) as caught:
        client.prepare(f"extract-{layer}-{parent}", parent, labels)
    assert caught.value.code == "ALREADY_EXISTS"
    found = client.list(f'labels."{REF}"=={labels[REF]},parent=="{parent}"')
    assert [info.kind for info in found] == [3]
    assert found[0].labels[REF] == labels[REF]
    assert found[0].parent == parent
    return str(found[0].name)


@contextmanager
def _container(client: SnapshotsClient, parent: str, place: Path) -> Iterator[Path]:
    """An active snapshot, mounted."""
    with mounted(client.prepare("container", parent), place / "c") as root:
        yield root
    client.remove("container")


def _tree(root: Path) -> dict[str, str | None]:
    return {str(p.relative_to(root)): p.read_text() if p.is_file() else None for p in sorted(root.rglob("*"))}


SHOWN = {"dir": None, "dir/above": "above", "etc": None, "etc/name": "top", "setuid": "#!/bin/sh\n"}


def test_two_lazy_layers_make_a_root(client: SnapshotsClient, short_tmp_path: Path) -> None:
    base = _prepare_lazily(client, "base")
    assert base == digest_of("chain of base on ")
    assert client.usage(base) == (0, 0)
    top = _prepare_lazily(client, "top", base)
    with _container(client, top, short_tmp_path) as root:
        assert _tree(root) == SHOWN
        assert (root / "setuid").stat().st_mode & 0o4000
        assert os.statvfs(root).f_flag & os.ST_NOSUID == 0
        (root / "etc/name").write_text("changed")
        (root / "setuid").unlink()
        assert _tree(root) == {**{k: v for k, v in SHOWN.items() if k != "setuid"}, "etc/name": "changed"}
    with mounted(client.view("look", top), short_tmp_path / "v") as root:
        assert _tree(root) == SHOWN
    with mounted(client.view("look at one", base), short_tmp_path / "v") as root:
        assert (root / "etc/gone").read_text() == "soon"
        assert (root.stat().st_uid, root.stat().st_gid) == (12, 34)
    (mount,) = client.prepare("owner", base)
    (upper,) = (
        option.removeprefix("upperdir=") for option in mount.options if option.startswith("upperdir=")
    )
    assert (Path(upper).stat().st_uid, Path(upper).stat().st_gid) == (12, 34)


def test_the_layers_own_mounts_are_safe(client: SnapshotsClient, running: RunningSnapshotter) -> None:
    _prepare_lazily(client, "base")
    mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    lines = [line.split(" ") for line in mounts.split("\n")[:-1]]
    (line,) = [line for line in lines if line[4].startswith(str(running.root))]
    assert set(line[5].split(",")) >= {"ro", "nosuid", "nodev"}
    assert line[line.index("-") + 1] == "erofs"


def test_a_layer_is_mounted_once(client: SnapshotsClient, running: RunningSnapshotter) -> None:
    for number in range(5):
        _prepare_lazily(client, "base", target=f"chain {number}")
    assert len(mounts_below(running.root)) == 1
    # The same chainID on another parent is another snapshot: containerd looks for both.
    client.prepare("p")
    client.commit("parent", "p")
    names = [_prepare_lazily(client, "base", parent, target="same") for parent in ("", "parent")]
    assert len(set(names)) == 2
    assert len(mounts_below(running.root)) == 1


@pytest.mark.parametrize("lazy_first", [True, False])
def test_a_mixture(client: SnapshotsClient, short_tmp_path: Path, lazy_first: bool) -> None:
    def ordinary(parent: str) -> str:
        with mounted(client.prepare("extract", parent), short_tmp_path / "t") as root:
            (root / "ordinary").mkdir()
            (root / "ordinary/file").write_text("by tar")
        client.commit("ordinary", "extract", {REF: digest_of("ordinary")})
        return "ordinary"

    lower = _prepare_lazily(client, "base") if lazy_first else ordinary("")
    upper = ordinary(lower) if lazy_first else _prepare_lazily(client, "base", lower)
    with _container(client, _prepare_lazily(client, "top", upper), short_tmp_path) as root:
        assert _tree(root) == {**SHOWN, "ordinary": None, "ordinary/file": "by tar"}


def test_a_layer_cannot_reach_into_others(client: SnapshotsClient, short_tmp_path: Path) -> None:
    top = _prepare_lazily(client, "hostile", _prepare_lazily(client, "base"))
    with _container(client, top, short_tmp_path) as root:
        with suppress(PermissionError):  # what the kernel says to a redirection that it must not follow
            assert list((root / "evil").iterdir()) == []
        with suppress(PermissionError):
            assert (root / "meta").read_text() == "own data"
        assert (root / "etc/name").read_text() == "base"


@pytest.mark.parametrize(
    "reason", [Reason.NOT_CONVERTED, Reason.INVALID, Reason.UNTRUSTED, Reason.UNREACHABLE]
)
def test_a_refused_layer_goes_the_ordinary_way(
    client: SnapshotsClient, mountd: FakeMountd, running: RunningSnapshotter, reason: Reason
) -> None:
    mountd.refused["base"] = reason
    (mount,) = client.prepare("extract", "", labels_for("base", "x"))
    assert mount.type == "bind"
    assert client.stat("extract").kind == 2
    lines = [line for line in running.log.splitlines() if "not lazy" in line]
    assert len(lines) == 1
    assert digest_of("base") in lines[0]
    assert f"the fake says {reason}" in lines[0]
    assert ("INFO" if reason is Reason.NOT_CONVERTED else "WARNING") in lines[0]


LYING = {**labels_for("base", "x"), "containerd.io/snapshot/cri.layer-digest": "../../etc/passwd"}


def test_labels_that_lie_go_the_ordinary_way(client: SnapshotsClient, running: RunningSnapshotter) -> None:
    assert client.prepare("a", "", LYING)[0].type == "bind"
    assert running.log.count("not lazy") == 1


def test_a_request_that_fails_anyway_is_no_layer_gone_the_ordinary_way(
    client: SnapshotsClient, running: RunningSnapshotter, mountd: FakeMountd
) -> None:
    client.prepare("a")
    asked = len(mountd.requests)
    for labels in (labels_for("base", "x"), LYING):
        for key, parent, code in (
            ("b", "none", "NOT_FOUND"),
            ("b", "a", "INVALID_ARGUMENT"),
            ("a", "", "ALREADY_EXISTS"),
            ("", "", "INVALID_ARGUMENT"),
        ):
            with pytest.raises(RefusedError) as caught:
                client.prepare(key, parent, labels)
            assert caught.value.code == code
    assert client.names() == ["a"]
    assert not [request for request in mountd.requests[asked:] if request.startswith("POST")]
    assert "not lazy" not in running.log


def test_without_a_mount_server(short_tmp_path: Path) -> None:
    with running_snapshotter(short_tmp_path) as running:
        client = running.client()
        assert client.prepare("extract", "", labels_for("base", "x"))[0].type == "bind"
        assert "is cafs mountd running?" in running.log


def test_a_storm_for_one_layer(
    client: SnapshotsClient, running: RunningSnapshotter, mountd: FakeMountd
) -> None:
    labels = labels_for("base", "storm")

    def attempt(number: int) -> str:
        try:
            client.prepare(f"extract-{number}", "", labels)
        except RefusedError as e:
            return e.code
        return "OK"

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(attempt, range(64))) == {"ALREADY_EXISTS"}
    assert client.names() == [digest_of("storm")]
    assert len(mounts_below(running.root)) == 1


def test_garbage_is_let_go_of(
    client: SnapshotsClient, running: RunningSnapshotter, mountd: FakeMountd
) -> None:
    base = _prepare_lazily(client, "base")
    other = _prepare_lazily(client, "base", target="other")
    top = _prepare_lazily(client, "top", base)
    assert len(mountd.shown) == 2
    client.remove(top)
    assert len(mounts_below(running.root)) == 2
    client.cleanup()
    assert mountd.shown == {mountd.name_of("base")}
    client.remove(base)
    client.cleanup()
    assert mountd.shown == {mountd.name_of("base")}
    client.remove(other)
    client.cleanup()
    assert mountd.shown == set()
    assert mounts_below(running.root) == []
    assert sorted(path.name for path in (running.root / "m").iterdir()) == []


def test_nothing_is_let_go_of_while_it_is_added(
    client: SnapshotsClient, running: RunningSnapshotter, mountd: FakeMountd, short_tmp_path: Path
) -> None:
    _prepare_lazily(client, "top")
    client.remove(client.names()[0])
    mountd.hold.clear()
    mountd.asked_to_add.clear()
    with ThreadPoolExecutor(1) as pool:
        prepared = pool.submit(_prepare_lazily, client, "top")
        assert mountd.asked_to_add.wait(PATIENCE_S)
        client.cleanup()
        mountd.hold.set()
        name = prepared.result()
    with _container(client, name, short_tmp_path) as root:
        assert (root / "etc/name").read_text() == "top"


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_restart_leaves_containers_alone(
    running: RunningSnapshotter, mountd: FakeMountd, short_tmp_path: Path, how: str
) -> None:
    top = _prepare_lazily(running.client(), "top", _prepare_lazily(running.client(), "base"))
    client = running.client()
    with _container(client, top, short_tmp_path) as root:
        before = mounts_below(running.root)
        running.kill() if how == "kill" else running.stop()
        assert _tree(root) == SHOWN
        mountd.requests.clear()
        running.start()
        assert mounts_below(running.root) == before
        with mounted(running.client().view("look", top), short_tmp_path / "v") as view:
            assert _tree(view) == SHOWN
        assert not [request for request in mountd.requests if request.startswith("POST")]
        running.client().remove("look")
        assert _tree(root) == SHOWN


def test_a_reboot(running: RunningSnapshotter, mountd: FakeMountd, short_tmp_path: Path) -> None:
    """Metadata is there, mounts are gone."""
    top = _prepare_lazily(running.client(), "top", _prepare_lazily(running.client(), "base"))
    running.client().prepare("container", top)
    running.kill()
    for point in mounts_below(running.root):
        subprocess.run(["umount", point], check=True)
    mountd.lose_mount()
    mountd.mount()
    mountd.shown.clear()
    running.start()
    with mounted(running.client().mounts("container"), short_tmp_path / "c") as root:
        assert _tree(root) == SHOWN


def test_the_mount_server_loses_its_mount(
    running: RunningSnapshotter, mountd: FakeMountd, short_tmp_path: Path
) -> None:
    client = running.client()
    top = _prepare_lazily(client, "top", _prepare_lazily(client, "base"))
    client.prepare("container", top)
    mountd.lose_mount()
    with pytest.raises(RefusedError) as caught:
        client.mounts("container")
    assert caught.value.code == "UNAVAILABLE"
    assert "is not mounted" in caught.value.message
    mountd.mount()
    with mounted(client.mounts("container"), short_tmp_path / "c") as root:
        assert _tree(root) == SHOWN
    assert len(mounts_below(running.root)) == 2


def test_a_layer_that_cannot_be_had_again(running: RunningSnapshotter, mountd: FakeMountd) -> None:
    client = running.client()
    base = _prepare_lazily(client, "base")
    client.prepare("container", base)
    mountd.lose_mount()
    mountd.refused["base"] = Reason.INVALID
    mountd.mount()
    for call in (
        lambda: client.mounts("container"),
        lambda: client.prepare("new", base),
        lambda: client.view("v", base),
    ):
        with pytest.raises(RefusedError, match="convert the image again") as caught:
            call()
        assert caught.value.code == "UNAVAILABLE"
    assert client.names() == [*sorted([base, "container"])]
    client.remove("container")
    client.remove(base)
    client.cleanup()


def test_a_layer_that_was_converted_anew(
    running: RunningSnapshotter, mountd: FakeMountd, short_tmp_path: Path
) -> None:
    client = running.client()
    base = _prepare_lazily(client, "base")
    mountd.lose_mount()
    mountd.renamed["base"] = "top"
    mountd.mount()
    with _container(client, base, short_tmp_path) as root:
        assert (root / "etc/name").read_text() == "top"
    client.cleanup()
    assert len(mounts_below(running.root)) == 1


def test_strangers_are_removed_at_start(running: RunningSnapshotter, mountd: FakeMountd) -> None:
    base = _prepare_lazily(running.client(), "base")
    running.kill()
    stray = running.root / "m" / "77"
    stray.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", stray], check=True)
    (running.root / "4711" / "fs").mkdir(parents=True)
    mountd.shown.add("ab" * 32)
    told = threading.Event()
    answer = mountd.answer

    def listen(method: str, path: str, body: bytes) -> tuple[int, object]:
        said = answer(method, path, body)
        if method == "DELETE":
            told.set()
        return said

    mountd.answer = listen  # type: ignore[method-assign]  # listens in
    running.start()
    assert told.wait(PATIENCE_S)
    assert mountd.shown == {mountd.name_of("base")}
    assert not stray.exists()
    assert not (running.root / "4711").exists()
    assert running.client().names() == [base]
