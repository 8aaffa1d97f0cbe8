"""chainIDs: what a stack of layers is called (OCI image-spec, config.md, "Layer ChainID"). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cafs.core.digest import Digest, chain_ids


def parent_chain_ids(diff_ids: Sequence[Digest]) -> list[Digest | None]:
    """For each layer the chainID of those below it; None for the lowest."""
    return [None, *chain_ids(diff_ids)][: len(diff_ids)]


def raw_digest(digest: Digest | None) -> bytes | None:
    """The 32 bytes of a sha256 digest."""
    return None if digest is None else bytes.fromhex(digest.partition(":")[2])
