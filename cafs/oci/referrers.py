"""Lists of referrers as pure data: the tag that stands in for the API, and merging entries.

Source: OCI distribution-spec v1.1, "Referrers Tag Schema" and "Unavailable Referrers API".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from cafs.core.digest import Digest
from cafs.oci.descriptor import Descriptor, encode_descriptor
from cafs.oci.image import Manifest
from cafs.oci.media_types import OCI_INDEX


def referrers_tag(subject: Digest) -> str:
    """The tag under which the referrers of ``subject`` are listed where a registry has no API."""
    algorithm, _, encoded = subject.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def kind_of(manifest: Manifest) -> str:
    """The artifact type of a manifest: its own, else its config's media type, as the API answers it."""
    return manifest.artifact_type or manifest.config.media_type


def referrer_entry(descriptor: Descriptor, manifest: Manifest) -> Descriptor:
    """How a manifest is listed among its subject's referrers."""
    return Descriptor(
        descriptor.digest,
        descriptor.size,
        descriptor.media_type,
        kind_of(manifest),
        manifest.annotations,
    )


def merge_referrers(known: Sequence[Descriptor], added: Iterable[Descriptor]) -> list[Descriptor]:
    """``known`` and then what is new of ``added``; each digest once."""
    merged = {entry.digest: entry for entry in known}
    for entry in added:
        merged.setdefault(entry.digest, entry)
    return list(merged.values())


def encode_index(entries: Sequence[Descriptor]) -> bytes:
    """An image index of ``entries``, the same bytes for the same entries."""
    return change_index(None, (), entries)


def change_index(document: bytes | None, known: Sequence[Descriptor], entries: Sequence[Descriptor]) -> bytes:
    """An image index with other entries. All else that it says, and what it says of entries that stay, stays.

    Args:
        document: As it is stored; None: there is none yet.
        known: Its entries, in their order.
        entries: Those that it is to have; the very same objects where they stay.
    """
    value = json.loads(document) if document else {}
    written = value.get("manifests") or []
    as_it_is = {id(entry): said for entry, said in zip(known, written, strict=True)}
    value |= {"schemaVersion": 2, "mediaType": OCI_INDEX}
    value["manifests"] = [as_it_is.get(id(entry)) or encode_descriptor(entry) for entry in entries]
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
