"""What an address alone tells about the content behind it. Pure.

Registry blobs are recognised wherever they lie: below ``/v2/`` of a registry, or in the storage that a
registry redirects to. Sources: distribution-spec v1.1 (``/v2/<name>/blobs/<digest>``), the storage layout of
distribution (``blobs/sha256/<2 letters>/<hex>/data``), which Docker Hub and S3-backed registries show.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from cafs.core.digest import Digest

_BLOB = re.compile(r"/blobs/(sha256(?::|%3[Aa])[0-9a-f]{64})\Z")
_STORED = re.compile(r"/blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})/data\Z")
_REPOSITORY = re.compile(r"/v2/([a-z0-9][a-z0-9._/\-]*)/blobs/")
_CONTENT_NAME = re.compile(
    r"\.(?:whl|tar|tgz|tbz2?|txz|gz|bz2|xz|zst|zip|7z|jar|war|deb|rpm|apk|iso|img|qcow2|vmdk|msi|exe|dmg"
    r"|safetensors|gguf|ggml|pt|pth|ckpt|onnx|h5|msgpack|npz|npy|parquet|arrow|tfrecord|bin|model|crate|gem)\Z",
    re.IGNORECASE,
)
_HUB_FILE = re.compile(r"/resolve/[^/]+/.+")


def digest_in(path: str) -> Digest | None:
    """The digest that the content of this path must have; None where the path names none."""
    if found := _BLOB.search(path):
        return Digest(unquote(found[1]))
    if found := _STORED.search(path):
        return Digest(f"sha256:{found[2]}")
    return None


def repository_in(path: str) -> str:
    """The repository whose blob this path is; empty where it is none of a registry's own."""
    found = _REPOSITORY.match(path)
    return found[1] if found else ""


def looks_like_content(path: str, query: str) -> bool:
    """Whether P2P is worth trying without a rule: a file by its name, or one of a model hub's.

    A query makes it an answer to this client rather than a file.
    """
    return not query and (_CONTENT_NAME.search(path) is not None or _HUB_FILE.search(path) is not None)
