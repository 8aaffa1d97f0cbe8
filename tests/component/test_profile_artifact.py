"""Attaching access profiles to images in a layout, finding the newest, and the commands for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cafs.core.digest import sha256_digest
from cafs.core.profile import Profile, encode_profile
from cafs.errors import IntegrityError, UsageError
from cafs.fetch.profile_artifact import attach_profile, find_profile, refuse_other_images
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, Descriptor, encode_descriptor
from cafs.oci.image import Image, Manifest
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, PROFILE, PROFILE_ARTIFACT

DIFF_ID = sha256_digest(b"layer")


def profile(*names: bytes) -> Profile:
    return Profile((DIFF_ID,), tuple((0, name) for name in names))


@asynccontextmanager
async def layout(path: Path) -> AsyncIterator[tuple[LayoutRepository, Descriptor]]:
    """A layout with one manifest, tagged ``latest``."""
    repository = LayoutRepository(path)
    try:
        await repository.push_blob(EMPTY_JSON, EMPTY_CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": encode_descriptor(EMPTY_CONFIG),
            "layers": [],
        }
        yield (
            repository,
            await repository.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, "latest"),
        )
    finally:
        await repository.aclose()


async def test_the_newest_profile_counts(tmp_path: Path) -> None:
    async with layout(tmp_path / "layout") as (repository, image):
        assert await find_profile(repository, image) is None
        second = datetime(2026, 1, 2, tzinfo=UTC)
        await attach_profile(repository, image, profile(b"newchunk"), second)
        await attach_profile(repository, image, profile(b"oldchunk"), datetime(2026, 1, 1, tzinfo=UTC))
        assert await find_profile(repository, image) == profile(b"newchunk")
        assert (await repository.resolve("latest")).digest == image.digest


async def test_a_derived_profile_counts_less_than_any_recorded_one(tmp_path: Path) -> None:
    derived = replace(profile(b"derived!"), is_derived=True)
    async with layout(tmp_path / "layout") as (repository, image):
        first = await attach_profile(repository, image, derived, datetime(2026, 1, 1, tzinfo=UTC))
        assert await find_profile(repository, image) == derived
        assert await attach_profile(repository, image, derived) == first, (
            "the same again is the same artifact"
        )
        recorded = profile(b"recorded")
        await attach_profile(repository, image, recorded, datetime(1999, 1, 1, tzinfo=UTC))
        assert await find_profile(repository, image) == recorded


async def test_an_empty_profile_is_not_attached(tmp_path: Path) -> None:
    async with layout(tmp_path / "layout") as (repository, image):
        with pytest.raises(UsageError, match="names no chunk"):
            await attach_profile(repository, image, profile(), datetime.now(UTC))


async def test_a_profile_of_none_of_the_images_layers_is_refused(tmp_path: Path) -> None:
    first, second = (sha256_digest(name) for name in (b"first", b"second"))
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [first, second]}}
    ).encode()
    described = Descriptor(sha256_digest(config), len(config), OCI_CONFIG)
    blob = Descriptor(sha256_digest(b""), 0, OCI_LAYER)
    manifest = Manifest(OCI_MANIFEST, described, (blob, blob), None, None, {})
    async with layout(tmp_path / "layout") as (repository, artifact):
        await repository.push_blob(config, described)
        image = Image(artifact, manifest)
        shares = Profile((first, DIFF_ID), ((0, b"ofmine!!"), (1, b"ofothers")))
        await refuse_other_images(repository, image, shares)
        await refuse_other_images(repository, image, profile())
        for other in (profile(b"ofothers"), Profile((first, DIFF_ID), ((1, b"ofothers"),))):
            with pytest.raises(UsageError, match="of another image"):
                await refuse_other_images(repository, image, other)


@pytest.mark.parametrize("content", [b"no json", b'{"version": 1, "layers": 5, "runs": []}'])
async def test_what_is_attached_and_no_profile_is_refused(tmp_path: Path, content: bytes) -> None:
    async with layout(tmp_path / "layout") as (repository, image):
        layer = Descriptor(sha256_digest(content), len(content), PROFILE)
        await repository.push_blob(content, layer)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": PROFILE_ARTIFACT,
            "config": encode_descriptor(EMPTY_CONFIG),
            "layers": [encode_descriptor(layer)],
            "subject": encode_descriptor(image),
        }
        await repository.attach(json.dumps(manifest).encode(), OCI_MANIFEST, image)
        with pytest.raises(IntegrityError, match="not an access profile"):
            await find_profile(repository, image)


def test_the_encoding_is_small() -> None:
    many = profile(*(number.to_bytes(8, "big") for number in range(2000)))
    assert len(encode_profile(many)) < 2000 * 17
