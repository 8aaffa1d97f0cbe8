"""``docker save`` archives as read-only OCI layouts: documents are made up, layers are read in place.

Source: moby image/spec v1.2, "Combined Image JSON + Filesystem Changeset Format"; Docker ≥ 25 writes an
OCI layout beside it into the same tar, whose layers may be compressed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from cafs.core.digest import Digest, sha256_digest
from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.oci.annotations import REF_NAME
from cafs.oci.archive import TarTree
from cafs.oci.descriptor import Descriptor, encode_descriptor
from cafs.oci.fields import Fields, parse_json_object
from cafs.oci.image import MAX_CONFIG_BYTES, MAX_LAYERS, parse_config
from cafs.oci.layout_reader import LayoutReader, blob_name
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from cafs.oci.reference import parse_reference
from cafs.oci.referrers import encode_index
from cafs.oci.spans import FileTree, Span, read_file

_MAX_LIST_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20
_MAGICS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


class DockerArchiveTree:
    """The files of an image layout, found in a ``docker save`` archive or made up from it."""

    def __init__(self, archive: FileTree) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._files: dict[str, Span] | None = None

    @property
    def name(self) -> str:
        return self._archive.name

    def find(self, name: str) -> Span | None:
        """See ``FileTree``."""
        with self._lock:
            if self._files is None:
                self._files = dict(self._translate())
        return self._files.get(name)

    def _translate(self) -> Iterator[tuple[str, Span]]:
        """The layout's files by name: a manifest for each image, its config and its layers."""
        entries = []
        for image in self._images():
            config, layers = self._config(image), self._layers(image)
            content = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": encode_descriptor(config[0]),
                    "layers": [encode_descriptor(layer) for layer, _ in layers],
                },
                separators=(",", ":"),
            ).encode()
            manifest = Descriptor(sha256_digest(content), len(content), OCI_MANIFEST)
            for descriptor, span in (config, *layers, (manifest, self._made_up(content))):
                yield blob_name(descriptor.digest), span
            entries += [
                Descriptor(
                    manifest.digest, manifest.size, OCI_MANIFEST, annotations={REF_NAME: tag} if tag else {}
                )
                for tag in image.texts("RepoTags") or [""]
            ]
        yield "index.json", self._made_up(encode_index(entries))

    def _made_up(self, content: bytes) -> Span:
        return Span(Path(self.name), 0, len(content), content)

    def _images(self) -> list[Fields]:
        if self._archive.find("manifest.json") is None:
            raise NotFoundError(f"{self.name} is no `docker save` archive: it has no manifest.json")
        content = read_file(self._archive, "manifest.json", _MAX_LIST_BYTES)
        wrapped = b'{"images":' + content + b"}"
        what = f"manifest.json of {self.name}"
        return parse_json_object(wrapped, what, _MAX_LIST_BYTES + 100).objects("images")

    def _config(self, image: Fields) -> tuple[Descriptor, Span]:
        name = image.text("Config")
        content = read_file(self._archive, name, MAX_CONFIG_BYTES)
        return Descriptor(sha256_digest(content), len(content), OCI_CONFIG), self._made_up(content)

    def _layers(self, image: Fields) -> list[tuple[Descriptor, Span]]:
        """An uncompressed layer's digest is its diffID; it is verified when the layer is read."""
        content = read_file(self._archive, image.text("Config"), MAX_CONFIG_BYTES)
        diff_ids = parse_config(content, f"image config of {self.name}").diff_ids
        names = image.texts("Layers")
        if len(names) != len(diff_ids) or len(names) > MAX_LAYERS:
            raise IntegrityError(f"{self.name} holds {len(names)} layers, its config names {len(diff_ids)}")
        return [self._layer(name, diff_id) for name, diff_id in zip(names, diff_ids, strict=True)]

    def _layer(self, name: str, diff_id: Digest) -> tuple[Descriptor, Span]:
        span = self._archive.find(name)
        if span is None:
            raise IntegrityError(f"{self.name} lacks its layer {name!r}")
        start = span.read(0, min(4, span.size))
        suffix = next((s for magic, s in _MAGICS.items() if start.startswith(magic)), "")
        digest = _digest_of(span) if suffix else diff_id
        return Descriptor(digest, span.size, OCI_LAYER + suffix), span


def _digest_of(span: Span) -> Digest:
    hasher = hashlib.sha256()
    for offset in range(0, span.size, _PIECE_BYTES):
        hasher.update(span.read(offset, min(_PIECE_BYTES, span.size - offset)))
    return Digest("sha256:" + hasher.hexdigest())


def open_docker_archive(path: Path) -> LayoutReader:
    """The images of a ``docker save`` archive; their tags are whole references (``debian:12``)."""
    return LayoutReader(DockerArchiveTree(TarTree(path, f"docker-archive:{path}")), _means_the_same)


def _means_the_same(tag: str, wanted: str) -> bool:
    """docker writes ``debian:12`` where podman and skopeo write ``docker.io/library/debian:12``."""
    return tag == wanted or (_whole(tag) == _whole(wanted) != "")


def _whole(tag: str) -> str:
    """A tag with all that it leaves out; "" when it is no reference into a registry."""
    try:
        return str(parse_reference(f"docker://{tag}"))
    except UsageError:
        return ""
