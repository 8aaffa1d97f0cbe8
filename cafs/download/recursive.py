"""Which files a recursive download brings: what a source lists, as paths below one directory (trio)."""

from __future__ import annotations

from pathlib import PurePosixPath

from cafs.core.proxying.listing import parse_index
from cafs.download.sources import list_files
from cafs.errors import NotFoundError, UsageError
from cafs.p2p.content import Distributor, Headers, Wish

_MAX_PAGE_BYTES = 16 << 20
_MAX_FILES = 1_000_000
_MAX_DEPTH = 64


async def list_source(
    url: str, distributor: Distributor, headers: Headers, *, anonymous: bool = False
) -> dict[str, str]:
    """Path below the target to address, for every file.

    Raises:
        UsageError: the source lists what cannot be a path here.
        CafsError: it does not list, or fails.
    """
    if url.startswith(("http://", "https://")):
        found = await _walk_index(url if url.endswith("/") else url + "/", distributor, headers)
    else:
        found = await list_files(url, anonymous=anonymous)
    for path in found:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path:
            raise UsageError(f"the source names a file {path[:80]!r}: that cannot be a path here")
    if not found:
        raise NotFoundError("the source lists no files")
    return found


async def _walk_index(url: str, distributor: Distributor, headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = [("", url)]
    while waiting:
        prefix, address = waiting.pop()
        if prefix.count("/") > _MAX_DEPTH or len(found) + len(waiting) > _MAX_FILES:
            raise UsageError("the source lists too many files, or in too deep directories")
        for name, below in parse_index(await _read_page(address, distributor, headers), address).items():
            if name.endswith("/"):
                waiting.append((prefix + name, below))
            else:
                found[prefix + name] = below
    return found


async def _read_page(url: str, distributor: Distributor, headers: Headers) -> str:
    page = bytearray()
    async with await distributor.open(Wish(url=url, headers=headers)) as content:
        kind = next((value for name, value in content.headers if name.lower() == "content-type"), "")
        if "html" not in kind:
            raise UsageError(f"{url} is no index page: it lists no files")
        async for piece in content:
            page += piece
            if len(page) > _MAX_PAGE_BYTES:
                raise UsageError(f"{url}: the index page is too long")
    return page.decode("utf-8", "replace")
