"""How large a converted image is beside the gzip layers it came from."""

from __future__ import annotations

from bench.place import Place
from bench.report import Result, Row
from demo.image import compressed_bytes, debian_python


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    _, made = place.convert(f"oci:{layout}:v1", "converted")
    ours, theirs = made.chunk_bytes + made.index_bytes, compressed_bytes(layout, "v1")
    return Result(
        "compressed_size",
        "Size of a converted image",
        "The demo's image (Debian, Python, numpy; three gzip layers as umoci writes them). Ours are all"
        f" chunk blobs ({made.chunk_bytes / 1e6:.1f} MB) and layer indexes as transferred"
        f" ({made.index_bytes / 1e6:.1f} MB).",
        (
            Row(
                "bytes in the registry",
                f"{ours / 1e6:.1f} MB",
                f"gzip layers {theirs / 1e6:.1f} MB",
                f"{ours / theirs:.3f}",
                "at most 1.00",
                ours <= theirs,
            ),
        ),
    )
