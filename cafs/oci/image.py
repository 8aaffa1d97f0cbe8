"""Manifests, image indexes and image configs: reading them within bounds, choosing a platform.

Both of OCI's kinds and Docker's schema 2 are read into the same records. Parsing is pure; the functions
that take a repository only fetch the few documents that lead from a name to one image.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from cafs.core.digest import Digest
from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.oci.descriptor import Descriptor, Platform, parse_descriptor, platform_of
from cafs.oci.fields import Fields, parse_json_object
from cafs.oci.media_types import IMAGE_CONFIGS, INDEXES, MANIFESTS
from cafs.oci.repository import Repository, read_blob

MAX_MANIFEST_BYTES = 4 << 20
"""distribution-spec v1.1, "Pushing Manifests": clients and registries should allow at least 4 MiB."""
MAX_CONFIG_BYTES = 8 << 20
MAX_LAYERS = 4096
MAX_INDEX_DEPTH = 3

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
}
"""``uname -m`` to GOARCH, where they differ."""


class Manifest(NamedTuple):
    """An image manifest, or the manifest of an artifact."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: dict[str, str]

    @property
    def is_image(self) -> bool:
        """Whether the layers are the layers of a root filesystem, described by an image config."""
        return self.config.media_type in IMAGE_CONFIGS


class ImageIndex(NamedTuple):
    """An image index or manifest list."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str]


class Entry(NamedTuple):
    """What a container of an image runs unless it is told otherwise."""

    words: tuple[str, ...]
    """Entrypoint and Cmd."""
    path: str
    """``$PATH``, empty when the image does not set it."""
    folder: str
    """Where it is run."""


class ImageConfig(NamedTuple):
    """What CAFS needs of an image config."""

    platform: Platform | None
    diff_ids: tuple[Digest, ...]
    entry: Entry = Entry((), "", "/")


class Image(NamedTuple):
    """One manifest that a name led to."""

    descriptor: Descriptor
    manifest: Manifest
    siblings: tuple[Descriptor, ...] = ()
    """The other entries of the image index it was found in: a bound index artifact may be one."""


def parse_manifest(content: bytes, media_type: str, what: str) -> Manifest | ImageIndex:
    """Read a manifest or an image index.

    Args:
        content: The whole document.
        media_type: As its descriptor or the registry said.
        what: Names the document in errors.

    Raises:
        IntegrityError: wrong shape, or it claims to be another kind of document.
    """
    fields = parse_json_object(content, what, MAX_MANIFEST_BYTES)
    own = fields.optional_text("mediaType")
    if own and own != media_type:
        raise fields.wrong("mediaType", f"is {own!r}, but it was announced as {media_type!r}")
    if "manifests" in fields and ("layers" in fields or "config" in fields):
        # CVE-2021-41190: one digest must never be both an index and a manifest.
        raise IntegrityError(f"{what} is ambiguous: it has both manifests and layers")
    if media_type in INDEXES:
        entries = tuple(parse_descriptor(entry) for entry in fields.objects("manifests"))
        return ImageIndex(media_type, entries, fields.text_map("annotations"))
    if media_type not in MANIFESTS:
        raise IntegrityError(f"{what} is of a kind that is not read here: {media_type!r}")
    return _manifest(fields, media_type)


def _manifest(fields: Fields, media_type: str) -> Manifest:
    layers = tuple(parse_descriptor(layer) for layer in fields.objects("layers"))
    if len(layers) > MAX_LAYERS:
        raise fields.wrong("layers", f"has {len(layers)} entries, more than the {MAX_LAYERS} allowed")
    subject = fields.optional_object("subject")
    return Manifest(
        media_type,
        parse_descriptor(fields.object("config")),
        layers,
        parse_descriptor(subject) if subject else None,
        fields.optional_text("artifactType"),
        fields.text_map("annotations"),
    )


def parse_config(content: bytes, what: str) -> ImageConfig:
    """Read an image config.

    Raises:
        IntegrityError: wrong shape.
    """
    fields = parse_json_object(content, what, MAX_CONFIG_BYTES)
    diff_ids = tuple(fields.object("rootfs").digests("diff_ids"))
    return ImageConfig(platform_of(fields), diff_ids, _parse_entry(fields))


def _parse_entry(fields: Fields) -> Entry:
    """Nobody depends on it: whatever is wrong with it, there is none then."""
    try:
        run = fields.optional_object("config")
        if run is None:
            return Entry((), "", "/")
        words = (*run.texts("Entrypoint"), *run.texts("Cmd"))
        settings = [text for text in run.texts("Env") if text.startswith("PATH=")]
        path = settings[-1].removeprefix("PATH=") if settings else ""
        return Entry(words, path, run.optional_text("WorkingDir") or "/")
    except IntegrityError:
        return Entry((), "", "/")


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    return Platform("linux", _MACHINES.get(machine, machine))


def choose_platform(index: ImageIndex, wanted: Platform, what: str) -> Descriptor:
    """The entry of ``index`` for ``wanted``: an exact variant first, then in the index's order.

    Raises:
        NotFoundError: there is none; the message lists what there is.
    """
    images = [entry for entry in index.manifests if entry.artifact_type is None]
    fitting = [entry for entry in images if entry.platform and entry.platform.serves(wanted)]
    if fitting:
        return min(fitting, key=lambda entry: entry.platform != wanted)
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    offered = sorted({str(entry.platform) for entry in images if entry.platform})
    raise NotFoundError(f"{what} has no image for {wanted}; it has: {', '.join(offered[:20]) or 'none'}")


def check_platform(config: ImageConfig, wanted: Platform, what: str) -> None:
    """Refuse an image that says it is for another platform than the one that was asked for.

    Raises:
        NotFoundError: it does.
    """
    if config.platform is not None and not config.platform.serves(wanted):
        raise NotFoundError(f"{what} has no image for {wanted}: its only one is for {config.platform}")


async def load_manifest(repository: Repository, descriptor: Descriptor) -> Manifest | ImageIndex:
    """Fetch and read the manifest or index that ``descriptor`` points at."""
    content = await repository.manifest(descriptor)
    return parse_manifest(
        content, descriptor.media_type, f"manifest {descriptor.digest} of {repository.name}"
    )


async def find_image(repository: Repository, selector: str, platform: Platform | None = None) -> Image:
    """From a tag or digest to one manifest.

    Args:
        platform: Which one of a multi-platform image, and what any other has to be for; None: this machine's,
            and a lone one is taken as it is.

    Raises:
        NotFoundError: no such name, or not for this platform.
    """
    return await follow_image(repository, await repository.resolve(selector), platform)


async def follow_image(
    repository: Repository, descriptor: Descriptor, platform: Platform | None = None
) -> Image:
    """From the descriptor of a manifest or index to one manifest, see ``find_image``."""
    siblings: tuple[Descriptor, ...] = ()
    unproved = platform
    for _ in range(MAX_INDEX_DEPTH):
        document = await load_manifest(repository, descriptor)
        if isinstance(document, Manifest):
            if unproved is not None and document.is_image:
                check_platform(await load_config(repository, document), unproved, repository.name)
            return Image(descriptor, document, siblings)
        what = f"{repository.name} ({descriptor.digest})"
        descriptor = choose_platform(document, platform or host_platform(), what)
        unproved = unproved if descriptor.platform is None else None
        siblings = tuple(entry for entry in document.manifests if entry != descriptor)
    raise IntegrityError(f"{repository.name}: image indexes within image indexes, more than can be meant")


async def list_images(repository: Repository, selector: str) -> list[Image]:
    """Every image behind a name: one for a manifest, one per platform for an image index.

    Entries that are no images (attestations have the platform ``unknown/unknown``) are left out.
    """
    top = await repository.resolve(selector)
    document = await load_manifest(repository, top)
    if isinstance(document, Manifest):
        return [Image(top, document)]
    images = []
    for entry in document.manifests:
        unknown = entry.platform is not None and entry.platform.os == "unknown"
        if entry.artifact_type is None and entry.media_type in MANIFESTS and not unknown:
            images.append(await follow_image(repository, entry))
    if not images:
        raise NotFoundError(f"{repository.name}: the image index {top.digest} names no image")
    return images


async def load_config(repository: Repository, manifest: Manifest) -> ImageConfig:
    """The config of an image, checked to name one diffID for each layer.

    Raises:
        UsageError: the manifest is no image's.
        IntegrityError: config and manifest do not agree.
    """
    if not manifest.is_image:
        raise UsageError(f"{repository.name} is no image: its config is {manifest.config.media_type!r}")
    what = f"image config {manifest.config.digest} of {repository.name}"
    config = parse_config(await read_blob(repository, manifest.config, MAX_CONFIG_BYTES), what)
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"{what} names {len(config.diff_ids)} layers, the manifest has {len(manifest.layers)}"
        )
    return config


async def image_platform(repository: Repository, image: Image) -> Platform | None:
    """What the image says it runs on; None: it says nothing, or is no image."""
    if image.descriptor.platform is not None or not image.manifest.is_image:
        return image.descriptor.platform
    return (await load_config(repository, image.manifest)).platform
