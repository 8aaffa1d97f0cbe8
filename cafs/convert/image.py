"""One image or artifact: its layers converted side by side, then published as one index artifact.

Runs in one trio task tree. Blobs are pushed as layers finish; the artifact's manifest goes last, so a
run that ends early has changed nothing that a reader could find.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from cafs.convert.below import Below
from cafs.convert.chain import parent_chain_ids, raw_digest
from cafs.convert.dictionary import Dictionary, bring_dictionary
from cafs.convert.feeds import StreamFeed, file_feed, tar_feed
from cafs.convert.layer import (
    BelowLayer,
    Workshop,
    check_diff_id,
    convert_blob,
    warn_of_left_out,
)
from cafs.convert.memory import ConversionMemory, ConvertedLayer
from cafs.convert.upload import push_layer
from cafs.core.digest import Digest, sha256_digest
from cafs.core.progress import Progress, Step
from cafs.errors import CafsError, IntegrityError, NotFoundError, UntrustedError, UsageError
from cafs.fetch.index_cache import IndexCache
from cafs.index.layer_index import LayerIndex
from cafs.oci.annotations import TITLE
from cafs.oci.artifact import publish_artifact
from cafs.oci.artifact_lookup import FoundArtifact, find_artifact
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Image, load_config
from cafs.oci.media_types import IMAGE_ARTIFACT, is_layer
from cafs.oci.repository import Repository, copy_blob
from cafs.oci.signature import SigningKey
from cafs.oci.trust import TrustPolicy

log = logging.getLogger(__name__)

_KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of ``cafs convert`` has for all its images."""

    shop: Workshop
    options: str
    """Key of the options, see ``LayerPlan.options``."""
    dictionary: Dictionary
    memory: ConversionMemory
    indexes: IndexCache
    progress: Progress
    layers_at_once: trio.CapacityLimiter
    open_near: Callable[[str, str], AbstractAsyncContextManager[Repository]]
    """(where, target): opens a repository by its name, if blobs come from there more cheaply than from a
    new conversion; NotFoundError otherwise."""
    reusable: TrustPolicy
    """Whose artifacts are believed to be conversions, and so used again, and signed."""
    key: SigningKey | None = None
    """Signs the artifacts."""
    attach: bool = True
    """Whether artifacts become referrers of their images."""

    def with_dictionary(self, dictionary: Dictionary) -> Run:
        """The same, referring to chunks of ``dictionary`` too."""
        return replace(
            self,
            shop=replace(self.shop, new_known=dictionary.known_chunks),
            options=self.options + dictionary.key,
            dictionary=dictionary,
        )


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer to convert."""

    number: int
    blob: Descriptor
    diff_id: Digest
    parent: Digest | None
    """chainID of the layers below."""
    feed: StreamFeed
    options: str
    """Key of all that decides on the outcome besides the diffID and the layers below: with these it says
    what a conversion can be used again for."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one image."""

    image: Digest | None
    artifact: Descriptor
    layers: tuple[ConvertedLayer, ...]
    new_layers: int
    """How many were converted now; the others had been before."""


async def plan_layers(source: Repository, image: Image, options: str) -> list[LayerPlan]:
    """What is to be converted.

    Args:
        source: Has the image.
        image: An image, or an artifact with titled files.
        options: Key of the options that all its layers share.

    Raises:
        UsageError: there is nothing in it that can be.
        IntegrityError: manifest and config do not agree.
    """
    manifest = image.manifest
    if not manifest.is_image:
        titled = [blob for blob in manifest.layers if blob.annotations.get(TITLE)]
        if manifest.artifact_type == IMAGE_ARTIFACT:
            name = f"{source.name} ({image.descriptor.digest})"
            raise UsageError(f"{name} is converted already: mount it as it is")
        if not titled:
            raise UsageError(f"{source.name} is neither an image nor an artifact with titled files")
        return [_plan_file(n, blob, options) for n, blob in enumerate(titled)]
    for blob in manifest.layers:
        if not is_layer(blob.media_type):
            raise UsageError(f"layer {blob.digest} of {source.name} is no tar but {blob.media_type!r}")
    diff_ids = (await load_config(source, manifest)).diff_ids
    parents = parent_chain_ids(diff_ids)
    return [
        LayerPlan(n, blob, diff_id, parent, tar_feed, options)
        for n, (blob, diff_id, parent) in enumerate(zip(manifest.layers, diff_ids, parents, strict=True))
    ]


def _plan_file(number: int, blob: Descriptor, options: str) -> LayerPlan:
    """A titled file. Its name is not in its bytes: these may be another file too, or even a layer's tar."""
    title = blob.annotations[TITLE].encode()
    key = f"{options}-title-{sha256_digest(title).partition(':')[2][:_KEY_DIGITS]}"
    return LayerPlan(number, blob, blob.digest, None, file_feed(title, blob.size), key)


class ImageConversion:
    """Converts one image of ``source`` into ``target``."""

    def __init__(self, run: Run, source: Repository, image: Image, target: Repository) -> None:
        self._run = run
        self._source = source
        self.image = image
        self._target = target
        self._plans: list[LayerPlan] = []
        self._done: list[ConvertedLayer | None] = []
        self._files: dict[int, Path] = {}
        self._finished: list[trio.Event] = []
        self._published: Descriptor | None = None
        """What is there already, when it is what this run would make."""
        self._new = 0

    async def convert(self) -> None:
        """Convert what is not converted yet. Nobody can find it before ``publish``."""
        self._plans = await plan_layers(self._source, self.image, self._run.options)
        self._done = [None] * len(self._plans)
        self._finished = [trio.Event() for _ in self._plans]
        existing = await self._existing()
        if existing is not None and await self._reuse_all(existing):
            self._published = existing.descriptor
            return
        async with trio.open_nursery() as nursery:
            for plan in self._plans:
                await self._run.layers_at_once.acquire_on_behalf_of(plan)
                nursery.start_soon(self._convert_layer, plan)

    async def publish(self) -> ImageResult:
        """Attach the artifact to the image, which is in the target now."""
        return ImageResult(
            self.image.descriptor.digest,
            self._published or await self._publish_new(),
            self._layers(),
            self._new,
        )

    async def _publish_new(self) -> Descriptor:
        layers = self._layers()
        dictionary = await bring_dictionary(self._run.dictionary, layers, self._target, self._run.shop.folder)
        return await publish_artifact(
            self._target,
            self.image.descriptor,
            [layer.layer for layer in layers],
            dictionary,
            key=self._run.key,
            attach=self._run.attach,
        )

    def _layers(self) -> tuple[ConvertedLayer, ...]:
        return tuple(layer for layer in self._done if layer is not None)

    async def _existing(self) -> FoundArtifact | None:
        try:
            return await find_artifact(self._target, self.image, self._run.reusable)
        except (NotFoundError, IntegrityError, UntrustedError) as e:
            log.debug("no conversion to use again: %s", e)
            return None

    async def _reuse_all(self, found: FoundArtifact) -> bool:
        """Whether the artifact that is there already is what this run would make."""
        artifact = found.artifact
        others = tuple(blob.blob for blob in artifact.dictionary)
        same = [
            ConvertedLayer(layer, others)
            for layer, plan in zip(artifact.layers, self._plans, strict=True)
            if (layer.diff_id, layer.options) == (plan.diff_id, plan.options)
        ]
        if len(same) < len(self._plans) or not await self._are_there(same):
            return False
        self._done = list(same)
        return True

    async def _are_there(self, layers: Sequence[ConvertedLayer]) -> bool:
        for blob in {blob for layer in layers for blob in layer.blobs}:
            if not await self._target.has_blob(blob):
                return False
        return True

    async def _convert_layer(self, plan: LayerPlan) -> None:
        step = self._run.progress.step(f"layer {plan.number + 1} of {len(self._plans)}", plan.blob.size)
        note = "failed"
        try:
            known = await self._recall(plan)
            self._done[plan.number] = known or await self._convert_new(plan, step)
            note = "converted before" if known else ""
            self._finished[plan.number].set()
        finally:
            step.finish(note)
            self._run.layers_at_once.release_on_behalf_of(plan)

    async def _recall(self, plan: LayerPlan) -> ConvertedLayer | None:
        """A conversion of the same layer, if its blobs are in the target or can be taken over."""
        run = self._run
        found = await trio.to_thread.run_sync(run.memory.recall, plan.diff_id, plan.options, plan.parent)
        if found is None:
            return None
        converted, where = found
        if not await self._are_there([converted]) and not await self._take_over(converted, where):
            return None
        return replace(converted, layer=replace(converted.layer, layer_digest=plan.blob.digest))

    async def _take_over(self, converted: ConvertedLayer, where: str) -> bool:
        """Bring a conversion's blobs from the repository that an earlier run put them into."""
        try:
            async with self._run.open_near(where, self._target.name) as origin:
                for blob in converted.blobs:
                    await copy_blob(origin, self._target, blob, self._run.shop.folder)
        except CafsError as e:
            log.debug(
                "the conversion of %s in %s cannot be taken over: %s", converted.layer.diff_id, where, e
            )
            return False
        return True

    async def _convert_new(self, plan: LayerPlan, step: Step) -> ConvertedLayer:
        run = self._run
        below = BelowLayer(lambda: trio.from_thread.run(self._below, plan.number), raw_digest(plan.parent))
        name = f"{plan.number}-{plan.diff_id.partition(':')[2][:12]}"
        blob = self._source.blob(plan.blob)
        label = f"layer {plan.blob.digest}"
        files = await convert_blob(run.shop, name, blob, plan.feed, step, below=below, label=label)
        check_diff_id(files, plan.diff_id, plan.blob.digest)
        warn_of_left_out(files.left_out, f"layer {plan.blob.digest}")
        converted = await push_layer(self._target, files, plan.blob.digest, plan.options, plan.parent)
        files.chunks.unlink()
        self._files[plan.number] = files.index
        self._new += 1
        remember = partial(run.memory.remember, asked_below=files.asked_below)
        await trio.to_thread.run_sync(remember, converted, self._target.name, plan.parent)
        return converted

    async def _below(self, number: int) -> Below | None:
        """The layers below ``number``, once they are converted; None for the lowest."""
        layers = []
        for lower in range(number):
            await self._finished[lower].wait()
            layers.append(await self._open_index(lower))
        return Below(layers) if layers else None

    async def _open_index(self, number: int) -> LayerIndex:
        path, converted = self._files.get(number), self._done[number]
        if path is not None:
            return await trio.to_thread.run_sync(LayerIndex.open, path)
        assert converted is not None, "its event was set"
        return await self._run.indexes.open(self._target, converted.layer)
