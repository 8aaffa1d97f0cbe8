"""Tells the mount server that an image is about to be pulled, before the pull has loaded its libraries.

Light on purpose: neither trio nor grpc is imported here. A hint, in a daemon thread that nobody waits for.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from cafs.control_socket.blocking import BlockingClient
from cafs.control_socket.protocol import ANNOUNCED_PATH, encode_announcement
from cafs.errors import CafsError
from cafs.oci.reference import RegistryReference

_WITHIN_S = 5.0
log = logging.getLogger(__name__)


def image_name(reference: RegistryReference) -> str:
    """What containerd calls an image: as CRI and nerdctl do, without the tag where there is a digest."""
    base = f"{reference.host}/{reference.repository}"
    return f"{base}@{reference.digest}" if reference.digest else f"{base}:{reference.tag or 'latest'}"


def announce(reference: RegistryReference, mountd: Path) -> None:
    """Begin to tell, and return at once."""
    threading.Thread(target=_tell, args=(image_name(reference), mountd), daemon=True).start()


def _tell(image: str, mountd: Path) -> None:
    client = BlockingClient(mountd, patience_s=_WITHIN_S, away_patience_s=0)
    try:
        client.ask("POST", ANNOUNCED_PATH, encode_announcement(image))
    except CafsError as e:
        log.debug("the mount server was not told of %s: %s", image, e)
