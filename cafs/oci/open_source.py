"""From a reference to the repository it names: the one place that knows all implementations.

The implementations are imported when they are needed: a mount of a local layout must not wait for an
HTTP client to load.
"""

from __future__ import annotations

from cafs.core.settings import Settings
from cafs.errors import UsageError
from cafs.oci.layout import LayoutRepository
from cafs.oci.reference import Reference, RegistryReference, Transport
from cafs.oci.repository import Repository


def open_repository(reference: Reference, settings: Settings) -> Repository:
    """The repository that ``reference`` lies in. No I/O happens before its first method is called.

    Raises:
        UsageError: ``dir:`` and ``tar:`` are no repositories.
    """
    if not isinstance(reference, RegistryReference) and reference.transport is Transport.OCI:
        return LayoutRepository(reference.path)
    raise UsageError(f"{reference} is no image: convert it first, to oci:DIR or to a registry")
