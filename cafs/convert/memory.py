"""Which layers were converted before, on this machine: so that a second image need not do it again.

One small JSON file per (diffID, options) below ``CACHE/converted``; of a layer that speaks of what only
those below it can say, per (diffID, options, their chainID). It only says where a conversion was put;
whether it is still there is asked of the repository, and its bytes are verified by whoever reads them. A
file that cannot be read is as good as none.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafs.core.digest import Digest, parse_digest, sha256_digest
from cafs.core.source import BlobRef
from cafs.errors import UsageError
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.descriptor import Descriptor
from cafs.oci.durable import replace_file
from cafs.oci.media_types import LAYER_CHUNKS, LAYER_INDEX

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConvertedLayer:
    """A conversion of one layer, all of whose blobs are in some repository."""

    layer: ArtifactLayer
    other_blobs: tuple[BlobRef, ...] = ()
    """Chunk blobs of other layers that its chunk table refers to."""

    @property
    def blobs(self) -> list[BlobRef]:
        """Everything a repository must hold for it."""
        own = [self.layer.index.blob] + ([self.layer.chunks.blob] if self.layer.chunks else [])
        return [*own, *self.other_blobs]


class ConversionMemory:
    """A directory of remembered conversions. Synchronous, for worker threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(
        self, diff_id: Digest, options: str, parent: Digest | None
    ) -> tuple[ConvertedLayer, str] | None:
        """The conversion of a layer, and the repository it was put into, if one is remembered.

        Args:
            parent: chainID of the layers below; None: there are none.
        """
        for path in (self._path(diff_id, options), self._path_on(diff_id, options, parent)):
            try:
                value = json.loads(path.read_text("utf-8"))
                return _parse(value, diff_id, options), str(value["repository"])
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, UsageError) as e:
                log.info("a remembered conversion of %s cannot be used: %s", diff_id, e)
        return None

    def remember(
        self, converted: ConvertedLayer, repository: str, parent: Digest | None, *, asked_below: bool
    ) -> None:
        """Keep where a conversion is. Failing to is no failure of the conversion.

        Args:
            parent: As in ``recall``.
            asked_below: Whether the outcome would be another on top of other layers, or might be.
        """
        diff_id, options = converted.layer.diff_id, converted.layer.options
        path = self._path_on(diff_id, options, parent) if asked_below else self._path(diff_id, options)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(_encode(converted, repository)).encode())
        except OSError as e:
            log.warning("cannot remember the conversion of %s: %s", converted.layer.diff_id, e)

    def _path(self, diff_id: Digest, options: str) -> Path:
        """Of a conversion that is the same on top of whatever layers."""
        return self._path_of(f"{diff_id} {options} anywhere")

    def _path_on(self, diff_id: Digest, options: str, parent: Digest | None) -> Path:
        """Of one that is this on top of these layers."""
        return self._path_of(f"{diff_id} {options} on {parent}")

    def _path_of(self, key: str) -> Path:
        return self._folder / sha256_digest(key.encode()).partition(":")[2]


def _encode(converted: ConvertedLayer, repository: str) -> dict[str, Any]:
    layer = converted.layer
    return {
        "repository": repository,
        "layer": layer.layer_digest,
        "index": [layer.index.digest, layer.index.size],
        "plain_index": [layer.index_digest, layer.index_size],
        "chunks": [layer.chunks.digest, layer.chunks.size] if layer.chunks else None,
        "parent": layer.parent_chain_id,
        "other": [[blob.digest, blob.size] for blob in converted.other_blobs],
    }


def _parse(value: Any, diff_id: Digest, options: str) -> ConvertedLayer:
    index, plain, chunks = value["index"], value["plain_index"], value["chunks"]
    layer = ArtifactLayer(
        parse_digest(value["layer"]),
        diff_id,
        Descriptor(parse_digest(index[0]), int(index[1]), LAYER_INDEX),
        parse_digest(plain[0]),
        int(plain[1]),
        options,
        parse_digest(value["parent"]) if value["parent"] else None,
        Descriptor(parse_digest(chunks[0]), int(chunks[1]), LAYER_CHUNKS) if chunks else None,
    )
    return ConvertedLayer(layer, tuple(BlobRef(parse_digest(d), int(n)) for d, n in value["other"]))
