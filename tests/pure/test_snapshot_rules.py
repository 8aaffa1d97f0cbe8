"""The snapshotter's decisions: mounts, mapped ids, labels that ask for a lazy layer, containerd's setup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cli.config import load_settings
from cafs.errors import IntegrityError, UsageError
from cafs.snapshotter.idmap import GID_MAP, UID_MAP, mapped_root, needs_mapping
from cafs.snapshotter.metadata import Row
from cafs.snapshotter.mounts import Paths, plan_mounts
from cafs.snapshotter.records import encode_record, parse_record
from cafs.snapshotter.remote import IMAGE, LAYER, MANIFEST, TARGET, asks_for_layer, wanted_layer
from cafs.snapshotter.snapshot import Info, Kind, Layer, LayerSource, Mount, Place, Stack, Usage

ROOT = Path("/r")
DIGEST = "sha256:" + "ab" * 32
PAGE_BYTES = 4096


def _stack(kind: Kind, *below: Place, labels: dict[str, str] | None = None) -> Stack:
    return Stack(Place(9), kind, labels or {}, below)


def _plan(stack: Stack, *, index_off: bool = True, maps_ids: bool = False) -> Mount:
    (mount,) = plan_mounts(stack, Paths(ROOT), index_off=index_off, maps_ids=maps_ids)
    return mount


def test_without_a_parent_the_directory_itself_is_mounted() -> None:
    assert _plan(_stack(Kind.ACTIVE)) == Mount("bind", "/r/9/fs", ("rw", "rbind"))
    assert _plan(_stack(Kind.VIEW)) == Mount("bind", "/r/9/fs", ("ro", "rbind"))


def test_ordinary_layers_are_stacked_as_overlayfs_does() -> None:
    options = ("index=off", "workdir=/r/9/work", "upperdir=/r/9/fs", "lowerdir=/r/5/fs:/r/2/fs")
    assert _plan(_stack(Kind.ACTIVE, Place(5), Place(2))) == Mount("overlay", "overlay", options)
    view = _plan(_stack(Kind.VIEW, Place(5), Place(2)))
    assert view.options == ("index=off", "lowerdir=/r/5/fs:/r/2/fs")


def test_a_view_of_one_layer_is_an_overlay_too() -> None:
    assert _plan(_stack(Kind.VIEW, Place(5))).options == ("index=off", "lowerdir=/r/5/fs:/r/e")
    lazy = _plan(_stack(Kind.VIEW, Place(5, 3)))
    assert lazy.options == ("index=off", "lowerdir=/r/m/3:/r/e", "redirect_dir=nofollow", "metacopy=off")


def test_a_lazy_layer_brings_no_overlay_attributes_of_its_own() -> None:
    mixed = _plan(_stack(Kind.ACTIVE, Place(5), Place(4, 3), Place(2)))
    assert "lowerdir=/r/5/fs:/r/m/3:/r/2/fs" in mixed.options
    assert mixed.options[-2:] == ("redirect_dir=nofollow", "metacopy=off")


def test_an_old_kernel_is_not_asked_for_what_it_does_not_know() -> None:
    mount = _plan(_stack(Kind.VIEW, Place(5), Place(2)), index_off=False)
    assert mount.options == ("lowerdir=/r/5/fs:/r/2/fs",)


def test_ids_are_mapped_by_containerd_where_it_can() -> None:
    labels = {UID_MAP: "0:1000:10", GID_MAP: "0:2000:10"}
    stack = _stack(Kind.ACTIVE, Place(5), labels=labels)
    mapping = ("uidmap=0:1000:10", "gidmap=0:2000:10")
    assert _plan(stack, maps_ids=True).options[:2] == mapping
    assert not set(mapping) & set(_plan(stack).options)
    alone = _plan(_stack(Kind.ACTIVE, labels=labels), maps_ids=True)
    assert alone.options == (*mapping, "rw", "rbind")


@given(st.lists(st.booleans(), min_size=128, max_size=128))
def test_128_layers_in_any_mixture_fit_a_page(lazy: list[bool]) -> None:
    """With the default root, after ten million snapshots, and without containerd's help."""
    root = load_settings({}, is_root=True, config=None, flags=[]).cache_dir / "s"
    below = tuple(Place(9_999_999 - n, 999_999 - n if is_lazy else None) for n, is_lazy in enumerate(lazy))
    stack = Stack(Place(10_000_000), Kind.ACTIVE, {}, below)
    (mount,) = plan_mounts(stack, Paths(root), index_off=True, maps_ids=False)
    assert len(",".join(mount.options)) < PAGE_BYTES
    (lower,) = (option for option in mount.options if option.startswith("lowerdir="))
    # containerd makes paths relative to, and maps ids of, what they have in common: no symlinks, no "..".
    assert os.path.commonpath(lower.removeprefix("lowerdir=").split(":")).startswith(str(root))


def test_whom_root_of_a_container_is() -> None:
    assert mapped_root({}) is None
    assert mapped_root({UID_MAP: "0:1000:10", GID_MAP: "5:0:1,0:2000:10"}) == (1000, 2000)
    assert mapped_root({UID_MAP: "0:1000:10"}) == (1000, 0)


def test_ids_are_mapped_unless_the_files_are_the_pods_already() -> None:
    pod = (1000, 2000)
    assert needs_mapping(pod, (0, 0)), "as the image has it"
    assert needs_mapping(pod, None), "lazy"
    assert not needs_mapping(pod, pod), "containerd made a copy with new owners"
    assert needs_mapping((0, 0), (0, 0))
    assert not needs_mapping(None, (0, 0))


@pytest.mark.parametrize(
    "text", ["1:1000:10", "0:1000:0", "0:1000", "a:b:c", "0:4294967295:1", "0:-1:1", "0:1:1,", " "]
)
def test_maps_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        mapped_root({UID_MAP: text})


def test_labels_that_ask_for_a_lazy_layer() -> None:
    labels = {TARGET: DIGEST, IMAGE: "example.org/app:1", MANIFEST: DIGEST, LAYER: DIGEST}
    assert wanted_layer(labels) == LayerSource("example.org/app:1", DIGEST, DIGEST, DIGEST)
    assert asks_for_layer(labels)
    for name in labels:
        assert not asks_for_layer({key: value for key, value in labels.items() if key != name})
        assert not asks_for_layer({**labels, name: ""})
    for name in (TARGET, MANIFEST, LAYER):
        with pytest.raises(UsageError):
            wanted_layer({**labels, name: "sha256:../../etc"})


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    ),
    st.sampled_from(Kind),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.booleans(),
)
def test_records_come_back(
    key: str, labels: dict[str, str], kind: Kind, parent: int | None, lazy: bool
) -> None:
    layer = Layer(4, "ab" * 32, "layers/x", LayerSource("i", DIGEST, DIGEST, DIGEST), 0) if lazy else None
    row = Row(
        Place(7, 4 if lazy else None),
        Info(key, "", kind, 1, 2, labels),
        Usage(3, 4),
        parent,
        key if lazy else None,
        generation=9,
    )
    text = encode_record(row, layer)
    assert parse_record(text) == (row, layer)
    with pytest.raises(IntegrityError, match="checksum"):
        parse_record(text.replace('"inodes": 4', '"inodes": 5'))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"version": 2}',
        '{"version": 3}',
        b"\xff",
        '{"version": 1, "snapshot": {}, "layer": null}',
        '{"version": 1}',
    ],
)
def test_what_is_no_record(text: str | bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_record(text)
