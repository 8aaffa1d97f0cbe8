"""Hands the user's credentials for an image's registry to the mount server, before it is asked for the image.

The mount server runs as a service and has no home directory with a login in it. It keeps them in memory only.
"""

from __future__ import annotations

import logging
from pathlib import Path

import trio

from cafs.control_socket.blocking import BlockingClient
from cafs.control_socket.protocol import CREDENTIALS_PATH, AwayError, RefusedError
from cafs.oci.reference import RegistryReference
from cafs.oci.registry.credentials import load_credentials
from cafs.oci.registry.pull_secrets import PullSecret

_WITHIN_S = 5.0
log = logging.getLogger(__name__)


async def hand_over_credentials(reference: RegistryReference, mountd: Path) -> None:
    """Do so where there are credentials and a mount server.

    That it fails is no reason not to pull: the snapshotter then finds what anybody may see, or nothing, and
    the layers go the ordinary way.

    Raises:
        CafsError: Docker's configuration cannot be read.
    """
    credentials = await load_credentials(reference.host)
    if credentials is None or not await trio.Path(mountd).exists():
        return
    secret = PullSecret(reference.host, reference.repository, credentials).encode()
    client = BlockingClient(mountd, patience_s=_WITHIN_S, away_patience_s=0)
    try:
        await trio.to_thread.run_sync(client.ask, "PUT", CREDENTIALS_PATH, secret)
    except (AwayError, RefusedError) as e:
        log.warning("credentials for %s did not reach the mount server: %s", reference.host, e)
