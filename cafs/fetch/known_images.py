"""What images in registries turned out to be, kept on the local disk: ``CACHE/image/HEX.json``.

Lets ``open_image`` open a pinned image without asking anybody, and any image while its registry cannot be
reached. One file for each repository, tag or digest, and platform. It only saves questions: the artifact's
manifest is verified against its digest when it is read back, and a file that makes no sense is no file. Of
many files those that were used last are kept.
What is remembered was believed once; whether it still is, ``open_image`` asks the policy of now.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cafs.core.digest import sha256_digest
from cafs.errors import IntegrityError, StorageError
from cafs.oci.artifact import IndexArtifact, encode_artifact, parse_artifact
from cafs.oci.descriptor import Descriptor, encode_descriptor, parse_descriptor
from cafs.oci.durable import replace_file
from cafs.oci.fields import parse_json_object
from cafs.oci.image import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from cafs.oci.media_types import OCI_MANIFEST

log = logging.getLogger(__name__)

KEPT = 4096
"""Images, of some kilobytes each."""
_SUFFIX = ".json"


class KnownImage(NamedTuple):
    """An image and the index artifact that was believed for it."""

    image: Descriptor
    artifact: IndexArtifact
    is_bound: bool = False
    """The image's own manifest names the artifact."""


class KnownImages:
    """A directory of such files. Synchronous."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        """``kept``: so many images stay, and a few more until somebody tidies up."""
        self._folder = folder
        self._kept = kept

    def _path(self, repository: str, selector: str, platform: str) -> Path:
        key = json.dumps([repository, selector, platform])
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}{_SUFFIX}"

    def recall(self, repository: str, selector: str, platform: str) -> KnownImage | None:
        """What was remembered; None when nothing was, or it cannot be read."""
        path = self._path(repository, selector, platform)
        try:
            with path.open("rb") as file:
                content = file.read(2 * MAX_MANIFEST_BYTES + 1)
        except OSError:
            return None
        try:
            fields = parse_json_object(content, str(path), 2 * MAX_MANIFEST_BYTES)
            manifest = fields.long_text("artifact", 2 * MAX_MANIFEST_BYTES).encode()
            if sha256_digest(manifest) != fields.digest("artifactDigest"):
                raise fields.wrong("artifact", "does not match its digest")
            document = parse_manifest(manifest, OCI_MANIFEST, str(path))
            if not isinstance(document, Manifest):
                raise fields.wrong("artifact", "is an index")
            image = parse_descriptor(fields.object("image"))
            known = KnownImage(image, parse_artifact(document, str(path)), "bound" in fields)
        except IntegrityError as e:
            log.info("forgetting what was known of %s: %s", repository, e)
            return None
        with suppress(OSError):  # a cache that may only be read is as good
            os.utime(path)
        return known

    def forget(self, repository: str, selector: str, platform: str) -> None:
        """What was remembered is no longer so."""
        self._path(repository, selector, platform).unlink(missing_ok=True)

    def remember(self, repository: str, selector: str, platform: str, known: KnownImage) -> None:
        """Keep it for ``recall``.

        Raises:
            StorageError: the cache cannot be written.
        """
        manifest = encode_artifact(known.artifact)
        value = {
            "repository": repository,
            "selector": selector,
            "platform": platform,
            "image": encode_descriptor(known.image),
            "bound": True if known.is_bound else None,
            "artifactDigest": sha256_digest(manifest),
            "artifact": manifest.decode(),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._path(repository, selector, platform), json.dumps(value).encode())
            self._tidy()
        except OSError as e:
            raise StorageError(
                f"cannot write into {self._folder}: {e.strerror} (cache_dir has to be writable, with room)"
            ) from e

    def _tidy(self) -> None:
        """Many at once, so that it is seldom."""
        paths = [path for path in self._folder.iterdir() if path.suffix == _SUFFIX]
        if len(paths) <= self._kept + self._kept // 8:
            return
        used = []
        for path in paths:
            with suppress(FileNotFoundError):  # somebody else is at it too
                used.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(used)[: -self._kept]:
            path.unlink(missing_ok=True)
