"""What schedulers know of this host, and what they tell it to do: see ``schedulers.Host``."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable

from cafs import __version__
from cafs.core.settings import Settings
from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.messages import ForgetReason
from cafs.core.swarm.task import TaskSpec
from cafs.errors import UsageError
from cafs.p2p import scheduler_messages as messages
from cafs.p2p.engine import Engine
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.scheduler_messages import HeldTask, HostFacts
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.uploads import Uploads
from cafs.proto import p2p_pb2

log = logging.getLogger(__name__)


class ScheduledHost:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        host_id: HostId,
        address: str,
        limits: LiveLimits,
        uploads: Uploads,
        *,
        seed: bool,
    ) -> None:
        """
        Args:
            settings: Where this host is.
            host_id: Its name.
            address: IP:PORT of its upload server, as others reach it.
            limits: What holds now; the scheduler may change them.
            uploads: What is being served.
            seed: It goes to the source for others.
        """
        self._settings = settings
        self._host_id = host_id
        self._address = address
        self._limits = limits
        self._uploads = uploads
        self._seed = seed
        self._sent = self._received = 0
        self._said_at = time.monotonic()
        self.engine: Engine
        """Whose tasks it holds; given by the program before any scheduler is talked to."""

    def facts(self) -> HostFacts:
        """See ``Host``."""
        return HostFacts(
            host_id=self._host_id,
            hostname=socket.gethostname()[:255],
            address=self._address,
            seed=self._seed,
            idc=self._settings.idc,
            location=self._settings.location,
            upload_limit=self._limits.now.concurrent_uploads,
            version=__version__,
        )

    def held(self) -> Iterable[HeldTask]:
        """See ``Host``."""
        return [_held(task) for task in self.engine.held() if task.have.bits]

    def alive(self) -> p2p_pb2.FromHost:
        """See ``Host``."""
        now = time.monotonic()
        sent, received = self._limits.upload.total_bytes, self._limits.download.total_bytes
        past_s = max(0.001, now - self._said_at)
        rates = int((sent - self._sent) / past_s), int((received - self._received) / past_s)
        self._said_at, self._sent, self._received = now, sent, received
        return messages.alive(self._uploads.active, *rates, self._limits.now.concurrent_uploads)

    def on_seed(self, spec: TaskSpec) -> None:
        """See ``Host``."""
        if self._seed:
            self.engine.seed(spec)
        else:
            log.warning("a scheduler takes this host for a seed")

    def on_forget(self, task: TaskId, why: ForgetReason) -> None:
        """See ``Host``."""
        self.engine.forget(task, why)

    def on_limits(self, changes: dict[str, int]) -> None:
        """See ``Host``."""
        try:
            self._limits.change(self._limits.now.changed(changes))
        except UsageError as e:
            log.warning("a scheduler sets limits that cannot be: %s", e)


def _held(task: StoredTask) -> HeldTask:
    assert task.meta is not None
    digests = [task.digest(number) or b"" for number in task.have]
    return HeldTask(task.spec, task.meta, task.have, digests)
