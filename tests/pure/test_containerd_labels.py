"""The labels of images, layers and snapshots, against what containerd's own client writes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from cafs.containerd.labels import (
    MAX_LABEL_BYTES,
    fits,
    index_labels,
    layer_labels,
    manifest_labels,
    source_label,
)
from cafs.core.digest import Digest, chain_ids, sha256_digest
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST


def _layers(count: int, **annotations: str) -> list[Descriptor]:
    digests = [sha256_digest(b"%d" % number) for number in range(count)]
    return [Descriptor(digest, 10, OCI_LAYER, annotations=annotations) for digest in digests]


def test_chain_ids_are_those_of_the_specification() -> None:
    a, b, c = (sha256_digest(text) for text in (b"a", b"b", b"c"))
    first = "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest()
    second = "sha256:" + hashlib.sha256(f"{first} {c}".encode()).hexdigest()
    assert chain_ids([a, b, c]) == [a, first, second]
    assert chain_ids([]) == []


def test_manifest_keeps_config_and_layers() -> None:
    config = Descriptor(sha256_digest(b"config"), 6, OCI_CONFIG)
    layers = _layers(2)
    assert manifest_labels(config, layers) == {
        "containerd.io/gc.ref.content.config": config.digest,
        "containerd.io/gc.ref.content.l.0": layers[0].digest,
        "containerd.io/gc.ref.content.l.1": layers[1].digest,
    }


def test_index_keeps_all_its_manifests() -> None:
    entries = [Descriptor(sha256_digest(b"%d" % n), 1, OCI_MANIFEST) for n in range(2)]
    assert index_labels(entries) == {
        "containerd.io/gc.ref.content.m.0": entries[0].digest,
        "containerd.io/gc.ref.content.m.1": entries[1].digest,
    }


def test_layer_tells_image_manifest_itself_and_those_above() -> None:
    layers = _layers(3)
    manifest, chain = sha256_digest(b"manifest"), sha256_digest(b"chain")
    assert layer_labels("host/app:1", manifest, layers, 1, chain) == {
        "containerd.io/snapshot.ref": chain,
        "containerd.io/snapshot/cri.image-ref": "host/app:1",
        "containerd.io/snapshot/cri.manifest-digest": manifest,
        "containerd.io/snapshot/cri.layer-digest": layers[1].digest,
        "containerd.io/snapshot/cri.image-layers": f"{layers[1].digest},{layers[2].digest}",
    }


@given(st.integers(1, 200), st.text(max_size=5000), st.text(max_size=5000))
def test_labels_fit_whatever_the_image_says(count: int, name: str, annotation: str) -> None:
    layers = _layers(count, **{"containerd.io/snapshot/other": annotation, "not.for.snapshots": "x"})
    labels = layer_labels(name, Digest("sha256:m"), layers, 0, Digest("sha256:c"))
    assert all(len(key.encode()) + len(value.encode()) <= MAX_LABEL_BYTES for key, value in labels.items())
    assert "not.for.snapshots" not in labels
    told = labels["containerd.io/snapshot/cri.image-layers"].split(",")
    assert told == [layer.digest for layer in layers[: len(told)]]
    assert len(told) == min(
        count, (MAX_LABEL_BYTES - len("containerd.io/snapshot/cri.image-layers") + 1) // 72
    )


def test_an_image_cannot_choose_another_reference_for_its_layers() -> None:
    layers = _layers(1, **{"containerd.io/snapshot/cri.image-ref": "evil/image:1"})
    labels = layer_labels("host/app:1", Digest("sha256:m"), layers, 0, Digest("sha256:c"))
    assert labels["containerd.io/snapshot/cri.image-ref"] == "host/app:1"


def test_an_image_name_too_long_for_a_label_is_left_out_not_what_the_image_says() -> None:
    layers = _layers(1, **{"containerd.io/snapshot/cri.image-ref": "evil/image:1"})
    labels = layer_labels("h" * 5000, Digest("sha256:m"), layers, 0, Digest("sha256:c"))
    assert "containerd.io/snapshot/cri.image-ref" not in labels


def test_source_names_the_host_without_its_port_and_all_repositories() -> None:
    key = "containerd.io/distribution.source.localhost"
    assert source_label("localhost:5000", "b") == (key, "b")
    assert source_label("localhost", "b", "c,a") == (key, "a,b,c")
    assert source_label("[::1]:5000", "b") == ("containerd.io/distribution.source.::1", "b")
    assert source_label("localhost", "b" * 255, ",".join("c" * 255 + str(n) for n in range(16))) is None


def test_fits_counts_bytes() -> None:
    assert fits("k", "v" * 4095)
    assert not fits("k", "v" * 4096)
    assert not fits("k", "\N{EURO SIGN}" * 1366)
