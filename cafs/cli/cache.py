"""``cafs cache``: what the chunk store and the index cache hold, how well they serve; gc, clear, verify."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cafs.cli.failure import EXIT_INTEGRITY
from cafs.cli.units import format_count, format_size
from cafs.errors import NotFoundError
from cafs.fetch.index_quota import list_indexes, trim_indexes

if TYPE_CHECKING:
    from cafs.cli.context import Context
    from cafs.store.chunk_store import ChunkStore, StoreStats


@click.group("cache", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show, clean and verify the chunk store."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(usage)


@command.command()
@click.pass_obj
def usage(context: Context) -> None:
    """Show size, contents and hit ratio (the default)."""
    from cafs.store.location import store_directory  # noqa: PLC0415 -- loads lmdb

    directory = store_directory(context.settings.cache_dir)
    indexes = list_indexes(context.settings.cache_dir / "index")
    found = {"indexes": len(indexes), "index_bytes": sum(index.size for index in indexes)}
    try:
        with _open(context, readonly=True) as store:
            stats = store.stats()
    except NotFoundError:
        context.result({"directory": str(directory), "chunks": 0, **found}, f"{directory}: no chunks yet")
        return
    document = {"directory": str(directory), **asdict(stats), "hit_ratio": stats.hit_ratio, **found}
    held = f"{len(indexes):,} ({format_size(found['index_bytes'])})"
    context.result(document, f"{directory}\n{_describe(stats, held)}")


def _describe(stats: StoreStats, indexes: str) -> str:
    ratio = "nothing was asked for yet" if stats.hit_ratio is None else f"{stats.hit_ratio:.1%}"
    lines = [
        ("used", f"{format_size(stats.used_bytes)} of {format_size(stats.quota_bytes)}"),
        ("file", format_size(stats.file_bytes)),
        ("chunks", f"{stats.chunks:,}"),
        ("pinned", f"{stats.pinned_chunks:,} ({format_size(stats.pinned_bytes)})"),
        *((f"  {name}", format_count(count, "chunk")) for name, count in sorted(stats.pin_sets.items())),
        ("hit ratio", f"{ratio} ({stats.hits:,} hits, {stats.misses:,} misses)"),
        ("indexes", indexes),
        ("since made", f"{stats.stored:,} stored, {stats.evicted:,} evicted, {stats.rotten:,} rotten"),
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines)


@command.command(short_help="Bring chunk store and index cache down to their quotas.")
@click.pass_obj
def gc(context: Context) -> None:
    """Bring chunk store and index cache down to their quotas and give free space back to the disk."""
    with _open(context) as store:
        done = store.gc()
    index_bytes = trim_indexes(context.settings.cache_dir / "index")
    freed, returned = format_size(done.evicted_bytes + index_bytes), format_size(done.returned_bytes)
    context.result(
        {**asdict(done), "index_bytes": index_bytes},
        f"evicted {freed}, gave {returned} of the store back to the disk",
    )
    _note_use(context, in_use=done.in_use)


@command.command()
@click.option("--pinned", is_flag=True, help="Pinned chunks too, and forget who pinned them.")
@click.pass_obj
def clear(context: Context, pinned: bool) -> None:
    """Forget all chunks. Mounts go on, and fetch again what they need."""
    with _open(context) as store:
        done = store.clear(pinned=pinned)
    removed = format_count(done.chunks, "chunk")
    context.result(
        asdict(done), f"removed {removed}, gave {format_size(done.returned_bytes)} back to the disk"
    )
    if done.pinned_chunks:
        context.note(f"{format_count(done.pinned_chunks, 'pinned chunk')} stayed (--pinned removes them too)")
    _note_use(context, in_use=done.in_use)


@command.command(short_help="Read and check every chunk, and drop rotten ones.")
@click.pass_obj
@click.pass_context
def verify(ctx: click.Context, context: Context) -> None:
    """Read and check every chunk; rotten ones are dropped, and the exit code is then 3."""
    with _open(context) as store, context.progress() as progress:
        done = store.verify(progress)
    context.result(
        asdict(done),
        "\n".join(
            [
                *done.rotten,
                f"{format_count(done.chunks, 'chunk')} ({format_size(done.plain_bytes)}) sound, "
                f"{len(done.rotten):,} rotten and dropped, {done.repaired:,} rows set right",
            ]
        ),
    )
    if done.rotten:
        ctx.exit(EXIT_INTEGRITY)


def _open(context: Context, *, readonly: bool = False) -> ChunkStore:
    from cafs.store.chunk_store import ChunkStore  # noqa: PLC0415 -- loads lmdb, blake3, zstandard
    from cafs.store.location import store_directory  # noqa: PLC0415 -- as above

    settings = context.settings
    return ChunkStore.open(store_directory(settings.cache_dir), settings.store_quota_bytes, readonly=readonly)


def _note_use(context: Context, *, in_use: bool) -> None:
    if in_use:
        context.note("the file keeps its length while others have the store open")
