"""Looking for the access profile of an image while its index artifact is still being looked for.

Both are referrers of the image's manifest: two ways to the registry that need not wait for each other.
"""

from __future__ import annotations

import logging

import trio

from cafs.core.profile import Profile
from cafs.errors import CafsError
from cafs.fetch.profile_artifact import find_profile
from cafs.oci.descriptor import Descriptor
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)


class ProfileSearch:
    """The profile that is attached to one image."""

    def __init__(self, nursery: trio.Nursery, repository: Repository, image: Descriptor) -> None:
        """Begin to look, as a task of the nursery.

        Args:
            nursery: Lasts for longer than anybody waits.
            repository: The image's.
            image: Its manifest.
        """
        self.image = image
        self.began_at = trio.current_time()
        self._repository = repository
        self._found: Profile | None = None
        self._ended = trio.Event()
        nursery.start_soon(self._run)

    async def result(self) -> Profile | None:
        """Wait for it."""
        await self._ended.wait()
        return self._found

    async def _run(self) -> None:
        self._found = await look_for_profile(self._repository, self.image)
        self._ended.set()


async def look_for_profile(repository: Repository, image: Descriptor) -> Profile | None:
    """The image's access profile. Failures are none: a profile only hints."""
    try:
        return await find_profile(repository, image)
    except CafsError as e:
        log.info("no access profile of %s: %s", image.digest, e)
        return None
