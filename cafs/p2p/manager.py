"""A peer's or seed's link to the manager, as configured; grpc is loaded for it only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from cafs.core.settings import Settings
from cafs.errors import StateError
from cafs.p2p.scheduler_messages import HostFacts


def manager_attached(settings: Settings, facts: HostFacts) -> AbstractContextManager[object]:
    """The manager knows of this host while the context lasts.

    Raises:
        StateError: a library is missing.
    """
    if not settings.managers:
        return nullcontext()
    try:
        from cafs.daemon.grpc_client import LinkTls  # noqa: PLC0415
        from cafs.daemon.manager_link import ManagerLink, ServiceFacts  # noqa: PLC0415
        from cafs.proto import manager_pb2  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    files = settings.peer_certificate, settings.peer_key, settings.peer_ca
    service = ServiceFacts(
        host_id=facts.host_id,
        kind=manager_pb2.SEED if facts.seed else manager_pb2.PEER,
        hostname=facts.hostname,
        address=facts.address,
        idc=facts.idc,
        location=facts.location,
        version=facts.version,
    )
    return ManagerLink(settings.managers, service, LinkTls(*map(Path, files)) if all(files) else None)
