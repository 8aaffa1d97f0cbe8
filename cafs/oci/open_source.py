"""From a reference to the repository it names: the one place that knows all implementations.

The implementations are imported when they are needed: a mount of a local layout must not wait for an
HTTP client to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cafs.core.settings import Settings
from cafs.errors import UsageError
from cafs.oci.reference import PathReference, Reference, RegistryReference, Transport
from cafs.oci.repository import Repository

if TYPE_CHECKING:
    from cafs.oci.registry.pull_secrets import SourcesOf  # loads trio


def open_repository(
    reference: Reference, settings: Settings, sources_of: SourcesOf | None = None
) -> Repository:
    """The repository that ``reference`` lies in. No I/O happens before its first method is called.

    Args:
        reference: Where it is.
        settings: How to speak to a registry.
        sources_of: Where its credentials are looked for; None: in Docker's configuration.

    Raises:
        UsageError: ``dir:`` and ``tar:`` are no repositories.
    """
    if isinstance(reference, RegistryReference):
        from cafs.oci.registry.repository import RegistryRepository  # noqa: PLC0415 - see above

        return RegistryRepository(reference.host, reference.repository, settings, sources_of)
    return _open_path(reference)


def _open_path(reference: PathReference) -> Repository:
    if reference.transport is Transport.OCI:
        from cafs.oci.layout import LayoutRepository  # noqa: PLC0415

        return LayoutRepository(reference.path)
    if reference.transport is Transport.OCI_ARCHIVE:
        from cafs.oci.archive import open_oci_archive  # noqa: PLC0415

        return open_oci_archive(reference.path)
    if reference.transport is Transport.DOCKER_ARCHIVE:
        from cafs.oci.docker_archive import open_docker_archive  # noqa: PLC0415

        return open_docker_archive(reference.path)
    raise UsageError(f"{reference} is no image: convert it first, to oci:DIR or to a registry")
