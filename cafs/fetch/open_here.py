"""Opens an image from what lies on this machine, at once, or not at all.

Used for the first answers of a mount (``cafs.node.first_answers``), before trio and the registry client are
loaded. It asks the very functions that ``open_image`` asks, so it believes exactly what that does. As soon as
one of them wants to wait for something, there is nothing to be had here.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from cafs.core.settings import Settings
from cafs.errors import CafsError
from cafs.fetch.index_cache import IndexCache
from cafs.fetch.known_images import KnownImage
from cafs.fetch.open_image import OpenImage, OpenLayer, find_converted
from cafs.oci.descriptor import Platform
from cafs.oci.layout_reader import LayoutReader
from cafs.oci.open_source import open_repository
from cafs.oci.reference import Reference, RegistryReference, parse_reference
from cafs.oci.repository import Repository
from cafs.oci.spans import Span

T = TypeVar("T")


class ElsewhereError(CafsError):
    """It can be had only by waiting for somebody."""


def open_image_here(source: str, settings: Settings, platform: Platform | None = None) -> OpenImage:
    """What ``open_image`` would open; its repository may be good for nothing but its name.

    Raises:
        ElsewhereError: it has to be asked for, or an index has to be fetched.
        CafsError: as ``open_image``.
    """
    reference = parse_reference(source)
    repository = _repository(reference, settings)
    known = _at_once(find_converted(repository, reference, settings, platform))
    layers = _open_layers(repository, settings, known)
    return OpenImage(str(reference), known.image.digest, layers, repository, known)


def _open_layers(repository: Repository, settings: Settings, known: KnownImage) -> tuple[OpenLayer, ...]:
    cache = IndexCache(settings.cache_dir / "index")
    layers = []
    for layer in known.artifact.layers:
        index = _at_once(cache.open_cached(layer))
        if index is None:
            raise ElsewhereError(f"layer index {layer.index_digest} is not here")
        layers.append(OpenLayer(index, layer.layer_digest, layer.diff_id, repository))
    return tuple(layers)


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that awaits nothing."""
    try:
        work.send(None)
    except StopIteration as e:
        result: T = e.value
        return result
    work.close()
    raise ElsewhereError("it has to be waited for")


class _Nowhere:
    """The files of a registry, as far as they are on this machine: none. A ``FileTree``."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """What the registry's repository is called."""
        return self._name

    def find(self, name: str) -> Span | None:
        """Never known here."""
        raise ElsewhereError(f"{self._name} has to be asked")


def _repository(reference: Reference, settings: Settings) -> Repository:
    if isinstance(reference, RegistryReference):
        # Under the name that ``RegistryRepository`` has, and so under what is remembered of it.
        return LayoutReader(_Nowhere(f"docker://{reference.host}/{reference.repository}"))
    return open_repository(reference, settings)
