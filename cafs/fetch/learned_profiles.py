"""What the manager has learned of the starts of images, asked of this node's peer, and starts told to it.

Everything here is a hint. What was learned is kept on this machine's disk, so that it also helps when peer
or manager are away; what it names is fetched and verified like anything else. One file for each image,
written beside and renamed; the ones that were used last are kept. For one trio thread.
"""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Self

import trio

from cafs.core.digest import Digest
from cafs.core.learning import (
    FRAME_BYTES_HEADER,
    IMAGE_HEADER,
    MAX_BYTES,
    MAX_NAME_BYTES,
    PROFILES_PATH,
    encode_bounded,
    parse_bounded,
)
from cafs.core.profile import Profile
from cafs.core.settings import Settings
from cafs.errors import IntegrityError, NotFoundError, UnavailableError
from cafs.fetch.local_peer import LocalPeer

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""For the peer, which asks the manager. No start waits for it as long."""
MOUNT_PATIENCE_S = 0.3
"""How long a mount that could begin to prefetch waits for what was learned."""
KEPT = 256
"""Images."""
_OK, _UNCHANGED, _UNKNOWN = 200, 304, 404


async def ask_learned(peer: LocalPeer, image: Digest) -> Profile:
    """What the manager has learned of an image, now.

    Args:
        peer: This node's.
        image: Digest of its manifest.

    Raises:
        NotFoundError: nothing.
        UnavailableError: peer or manager cannot be asked.
        IntegrityError: the answer is none.
    """
    answer = await peer.ask("GET", PROFILES_PATH + image, most_bytes=2 * MAX_BYTES, patience_s=PATIENCE_S)
    if answer is None:
        raise UnavailableError(
            "this node's peer does not answer; the manager is asked by way of it: cafs peer"
        )
    if answer.status == _OK:
        return parse_bounded(answer.body)
    why = _why(answer.body)
    raise NotFoundError(why) if answer.status == _UNKNOWN else UnavailableError(why)


def _why(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "this node's peer knows nothing of learned profiles"


class LearnedProfiles:
    """See the module."""

    def __init__(self, peer: LocalPeer, folder: Path) -> None:
        """``folder``: where they are kept; made when it is needed."""
        self._peer = peer
        self._folder = folder

    @classmethod
    def of(cls, settings: Settings, peer: LocalPeer) -> Self | None:
        """As configured; None: it is switched off."""
        return cls(peer, settings.cache_dir / "learned") if settings.learned_profiles else None

    async def find(self, image: Digest) -> Profile | None:
        """What starts of this image read. Failures are none, or what was known before.

        Args:
            image: Digest of its manifest.
        """
        held = await trio.to_thread.run_sync(self._read, image)
        etag = (("if-none-match", f'"{sha256(held).hexdigest()}"'),) if held else ()
        answer = await self._peer.ask(
            "GET", PROFILES_PATH + image, headers=etag, most_bytes=2 * MAX_BYTES, patience_s=PATIENCE_S
        )
        if answer is not None and answer.status == _UNKNOWN:
            await trio.to_thread.run_sync(self._forget, image)
            return None
        fresh = answer.body if answer is not None and answer.status == _OK else None
        document = held if fresh is None else fresh
        if not document:
            return None
        try:
            profile = parse_bounded(document)
        except IntegrityError as e:
            log.info("what was learned of %s is of no use: %s", image, e)
            await trio.to_thread.run_sync(self._forget, image)
            return None
        if fresh is not None:
            await trio.to_thread.run_sync(self._keep, image, fresh)
        return profile

    async def report(self, image: Digest, name: str, start: Profile, frame_bytes: int) -> None:
        """Tell what a start read; it may be passed over.

        Args:
            image: Digest of its manifest.
            name: By which it was mounted.
            start: Of the layers that were seen from their first read on.
            frame_bytes: Of its chunks.
        """
        printable = "".join(letter for letter in name if letter.isascii() and letter.isprintable()).strip()
        await self._peer.ask(
            "POST",
            PROFILES_PATH + image,
            body=encode_bounded(start),
            headers=(
                (IMAGE_HEADER, printable[:MAX_NAME_BYTES]),
                (FRAME_BYTES_HEADER, str(frame_bytes)),
            ),
            most_bytes=MAX_BYTES,
            patience_s=PATIENCE_S,
        )

    def _path(self, image: Digest) -> Path:
        return self._folder / f"{image.partition(':')[2]}.profile"

    def _read(self, image: Digest) -> bytes:
        try:
            with self._path(image).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError:
            return b""

    def _forget(self, image: Digest) -> None:
        try:
            self._path(image).unlink(missing_ok=True)
        except OSError as e:
            log.info("a learned profile cannot be forgotten: %s", e)

    def _keep(self, image: Digest, document: bytes) -> None:
        path = self._path(image)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = path.with_suffix(".new")
            beside.write_bytes(document)
            beside.replace(path)
            files = sorted(self._folder.glob("*.profile"), key=lambda file: file.stat().st_mtime)
            for old in files[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as e:
            log.info("a learned profile cannot be kept: %s", e)
