"""What becomes of layers that were shown because somebody announced a pull."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from cafs.control_socket.protocol import AddedLayer, AddLayer
from cafs.core.digest import Digest, sha256_digest
from cafs.errors import NotFoundError, UsageError
from cafs.fetch.known_images import KnownImage
from cafs.node.mountd.announced import UNCLAIMED_S, Announced
from cafs.oci.artifact import ArtifactLayer, IndexArtifact
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import OCI_MANIFEST
from cafs.oci.reference import RegistryReference

IMAGE = "registry.example/app:v1"


def digest(of: str) -> Digest:
    return sha256_digest(of.encode())


def name_of(layer: str) -> str:
    return digest(f"index of {layer}").partition(":")[2]


def converted(*layers: str) -> KnownImage:
    """An image of these layers."""
    described = Descriptor(media_type="application/octet-stream", digest=digest("stored"), size=1)
    return KnownImage(
        Descriptor(media_type=OCI_MANIFEST, digest=digest("manifest"), size=1),
        IndexArtifact(
            None,
            tuple(
                ArtifactLayer(
                    digest(layer), digest(f"diff {layer}"), described, digest(f"index of {layer}"), 1, ""
                )
                for layer in layers
            ),
        ),
    )


class ShownLayers:
    """Layers by name, as the mount server shows them; whether they are unclaimed."""

    def __init__(self, **shown: bool) -> None:
        self.shown = {name_of(layer): unclaimed for layer, unclaimed in shown.items()}

    def __iter__(self) -> Iterator[Any]:
        records = [SimpleNamespace(name=name, unclaimed=unclaimed) for name, unclaimed in self.shown.items()]
        return iter([SimpleNamespace(record=record) for record in records])

    async def add(self, wanted: AddLayer, *, announced: bool) -> AddedLayer:
        await trio.lowlevel.checkpoint()
        assert wanted.image == IMAGE
        assert wanted.manifest == digest("manifest")
        layer = next(layer for layer in "abc" if digest(layer) == wanted.layer)
        self.shown.setdefault(name_of(layer), announced)
        return AddedLayer(name_of(layer), "", 0, 0, hides=False)

    async def remove(self, name: str, *, only_unclaimed: bool) -> None:
        await trio.lowlevel.checkpoint()
        assert only_unclaimed
        if self.shown[name]:
            del self.shown[name]


async def found(_image: str, _reference: RegistryReference) -> KnownImage:
    await trio.lowlevel.checkpoint()
    return converted("a", "b", "c")


async def test_all_layers_are_shown_and_those_nobody_asks_for_go_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    layers = ShownLayers(a=False)
    Announced(found, cast("Any", layers), nursery).announce(IMAGE)
    await trio.testing.wait_all_tasks_blocked()
    assert layers.shown == {name_of("a"): False, name_of("b"): True, name_of("c"): True}
    layers.shown[name_of("b")] = False
    await trio.sleep(UNCLAIMED_S - 1)
    assert len(layers.shown) == 3
    await trio.sleep(2)
    # The first was there before, the second was asked for.
    assert set(layers.shown) == {name_of("a"), name_of("b")}


async def test_a_later_server_takes_away_what_was_announced_to_the_one_before(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    layers = ShownLayers(a=False, b=True, c=True)
    Announced(found, cast("Any", layers), nursery).resume()
    await trio.sleep(UNCLAIMED_S - 1)
    layers.shown[name_of("c")] = False
    await trio.sleep(2)
    assert set(layers.shown) == {name_of("a"), name_of("c")}


async def test_an_image_that_is_not_converted_is_nobodys_error(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    async def missing(_image: str, _reference: RegistryReference) -> KnownImage:
        raise NotFoundError("no artifact")

    layers = ShownLayers()
    Announced(missing, cast("Any", layers), nursery).announce(IMAGE)
    await trio.sleep(2 * UNCLAIMED_S)
    assert layers.shown == {}


async def test_only_so_many_announcements_are_worked_on_at_once(nursery: trio.Nursery) -> None:
    asked: list[str] = []

    async def never(_image: str, reference: RegistryReference) -> KnownImage:
        asked.append(str(reference))
        await trio.sleep_forever()
        raise AssertionError

    announced = Announced(never, cast("Any", ShownLayers()), nursery)
    for _twice in range(2):
        for number in range(40):
            announced.announce(f"registry.example/app:v{number}")
    await trio.testing.wait_all_tasks_blocked()
    assert len(asked) == len(set(asked)) == 16
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("image", ["oci:/etc", "tar:/etc/passwd", "not a reference"])
async def test_what_is_in_no_registry_is_refused(nursery: trio.Nursery, image: str) -> None:
    with pytest.raises(UsageError):
        Announced(found, cast("Any", ShownLayers()), nursery).announce(image)
