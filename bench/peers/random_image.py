"""An image of layers that are not to be compressed, as an OCI layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

from bench.images.layers import Built, Layer
from bench.images.layout import add_image

_FILE_BYTES = 4 << 20


def make_random_image(place: Path, tag: str, layers: int, layer_bytes: int) -> Path:
    """The layout; each layer has files of 4 MiB of random bytes.

    Args:
        place: Where the layout is made.
        tag: Of the image.
        layers: How many.
        layer_bytes: Of files in each.
    """
    layout = place / "layout"
    add_image(layout, tag, [_layer(place, number, layer_bytes) for number in range(layers)], ["/none"])
    return layout


def _layer(place: Path, number: int, size: int) -> Built:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for file in range(size // _FILE_BYTES):
            member = tarfile.TarInfo(f"layer{number}/f{file:04}")
            member.size = _FILE_BYTES
            tar.addfile(member, io.BytesIO(os.urandom(_FILE_BYTES)))
    blob = place / f"layer{number}"
    packed = gzip.compress(plain.getbuffer(), compresslevel=0, mtime=0)
    blob.write_bytes(packed)
    digests = (_digest(packed), _digest(plain.getbuffer()))
    layer = Layer(*digests, len(packed), plain.tell(), f"layer {number}")
    return Built(layer, blob, place)


def _digest(data: bytes | memoryview) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
