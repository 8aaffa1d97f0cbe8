"""``cafs get``: from a URL to files, by whatever brings them (trio).

What only some URLs need is imported there: with it a small file took half as long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cafs.core.digest import Digest
from cafs.core.progress import Progress
from cafs.core.proxying.guard import parse_guard
from cafs.core.settings import Settings
from cafs.core.swarm.priorities import USUAL
from cafs.download.fetch import Fetched, fetch_to_file
from cafs.download.pace import Pace
from cafs.errors import IntegrityError, StorageError, UsageError
from cafs.p2p.content import Distributor, Headers, Wish
from cafs.p2p.node_client import NodeDistributor, usual_node_socket
from cafs.proxy.direct import DirectDistributor
from cafs.proxy.fallback import PeerOrDirect
from cafs.proxy.origin import Origins, Patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANYWHERE = ("0.0.0.0/0", "::/0")
"""The guard of the proxy is for its clients: whoever runs a command can reach all that himself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asks for."""

    url: str
    output: Path
    digest: Digest | None = None
    headers: Headers = ()
    first_byte: int = 0
    last_byte: int | None = None
    tag: str = ""
    application: str = ""
    filtered_query: tuple[str, ...] = ()
    priority: int = USUAL
    bytes_per_s: float | None = None
    recursive: bool = False
    anonymous: bool = False
    """Sources that are not HTTP's are asked without credentials."""
    p2p: bool = True
    node_socket: Path | None = None


@dataclass(frozen=True, slots=True)
class Got:
    """How it went."""

    files: Sequence[Fetched]
    by_peer: bool


async def get(settings: Settings, order: Order, progress: Progress) -> Got:
    """Do it.

    Raises:
        CafsError: it cannot be done, and why; files that were whole by then stay.
    """
    scheme = order.url.partition("://")[0] if "://" in order.url else "file"
    if order.headers and scheme not in {"http", "https"}:
        raise UsageError(f"--header: nothing asks {scheme}:// with headers, which are HTTP's")
    pace = Pace(order.bytes_per_s)
    node = NodeDistributor(order.node_socket or usual_node_socket(settings.run_dir))
    peer = node if order.p2p and await node.is_there() else None
    if scheme == "docker":
        return await _get_blobs(settings, order, peer, progress, pace)
    if scheme not in {"http", "https"}:
        from cafs.download.sources import SourceDistributor  # noqa: PLC0415 - see above

        source = SourceDistributor(peer, anonymous=order.anonymous)
        return Got(await _get_files(order, source, progress, pace), source.by_peer)
    async with _distributor_for(settings, peer) as distributor:
        files = await _get_files(order, distributor, progress, pace)
        return Got(files, isinstance(distributor, PeerOrDirect) and distributor.by_peer)


@asynccontextmanager
async def _distributor_for(settings: Settings, peer: NodeDistributor | None) -> AsyncIterator[Distributor]:
    origins = Origins(parse_guard(ANYWHERE), Patience.from_settings(settings))
    direct = DirectDistributor(origins)
    try:
        yield direct if peer is None else PeerOrDirect(peer, direct)
    finally:
        origins.close()


async def _get_files(order: Order, distributor: Distributor, progress: Progress, pace: Pace) -> list[Fetched]:
    if not order.recursive:
        target = _target(order)
        return [
            await fetch_to_file(distributor, _wish(order, order.url, order.digest), target, progress, pace)
        ]
    if order.digest or order.first_byte or order.last_byte is not None:
        raise UsageError("--digest and --range are of one file: not with --recursive")
    from cafs.download.recursive import list_source  # noqa: PLC0415 - see above

    listed = await list_source(order.url, distributor, order.headers, anonymous=order.anonymous)
    fetched = []
    for path, url in sorted(listed.items()):
        target = order.output / path
        _make_parents(target)
        fetched.append(
            await fetch_to_file(distributor, _wish(order, url, None), target, progress, pace, of_many=True)
        )
    return fetched


async def _get_blobs(
    settings: Settings, order: Order, peer: Distributor | None, progress: Progress, pace: Pace
) -> Got:
    from cafs.download.registry import BlobDistributor, list_blobs  # noqa: PLC0415 - see above
    from cafs.oci.reference import RegistryReference, parse_reference  # noqa: PLC0415
    from cafs.oci.registry.repository import RegistryRepository  # noqa: PLC0415

    reference = parse_reference(order.url)
    assert isinstance(reference, RegistryReference), reference
    repository = RegistryRepository(reference.host, reference.repository, settings)
    try:
        blobs = await list_blobs(repository, reference)
        if order.digest:
            _check_digest(order.digest, [blob.digest for blob in blobs])
        distributor = BlobDistributor(repository, peer)
        single = len(blobs) == 1 and not order.output.is_dir()
        fetched = []
        for blob in blobs:
            target = order.output if single else order.output / (blob.path or blob.digest.partition(":")[2])
            _make_parents(target)
            url = f"{repository.client.base}{repository.path(f'blobs/{blob.digest}')}"
            wish = _wish(order, url, blob.digest)
            fetched.append(await fetch_to_file(distributor, wish, target, progress, pace, of_many=not single))
        return Got(fetched, distributor.by_peer)
    finally:
        await repository.aclose()


def _check_digest(wanted: Digest, found: Sequence[Digest]) -> None:
    if len(found) != 1:
        raise UsageError(f"--digest is of one file, and this artifact has {len(found)}")
    if found[0] != wanted:
        raise IntegrityError(f"what is there has the digest {found[0]}, not {wanted}: it was not fetched")


def _wish(order: Order, url: str, digest: Digest | None) -> Wish:
    return Wish(
        url=url,
        digest=digest,
        tag=order.tag,
        application=order.application,
        filtered_query=order.filtered_query,
        headers=order.headers,
        priority=order.priority,
        bytes_per_s=int(order.bytes_per_s or 0),
        first_byte=order.first_byte,
        last_byte=order.last_byte,
    )


def _target(order: Order) -> Path:
    if order.output.is_dir():
        name = order.url.partition("?")[0].rstrip("/").rpartition("/")[2]
        if not name or name in {".", ".."}:
            raise UsageError(f"{order.output} is a directory, and the address names no file")
        return order.output / name
    return order.output


def _make_parents(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot make {target.parent}: {e.strerror}") from e
