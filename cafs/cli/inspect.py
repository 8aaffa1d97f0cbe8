"""``cafs inspect``: what a converted image consists of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cafs.cli.context import Context
from cafs.cli.opened import platform_option, with_image
from cafs.cli.plot import bar_plot, text_table
from cafs.cli.units import format_size
from cafs.oci.signature import is_valid

if TYPE_CHECKING:
    from cafs.fetch.open_image import OpenImage
    from cafs.index.summary import ImageSummary


@click.command()
@click.argument("source")
@platform_option
@click.pass_obj
def command(context: Context, source: str, *, platform: str | None) -> None:
    """Show what the converted image SOURCE consists of: layers, sizes, chunks, dedup, chunk sizes."""

    async def use(image: OpenImage) -> None:
        from cafs.index.summary import summarize  # noqa: PLC0415 -- loads numpy

        summary = summarize([layer.index for layer in image.layers])
        context.result(_document(image, summary), _text(image, summary))

    with_image(source, context.settings, platform, use)


def _document(image: OpenImage, summary: ImageSummary) -> dict[str, Any]:
    artifact, layers = image.known.artifact, []
    signature = artifact.signature
    for layer, sizes in zip(image.layers, summary.layers, strict=True):
        header = layer.index.header
        parent = header.parent_chain_id
        layers.append(
            {
                "digest": layer.layer_digest,
                "diff_id": layer.diff_id,
                "options": header.options._asdict(),
                "follows_parent": f"sha256:{parent.hex()}" if parent else None,
                "blobs": [{"digest": blob.digest, "size": blob.size} for blob in layer.index.blobs],
                **asdict(sizes),
            }
        )
    return {
        "image": image.name,
        "manifest": image.manifest_digest,
        "bound": image.known.is_bound,
        "signature": {"key": str(signature.key), "valid": is_valid(artifact)} if signature else None,
        "layers": layers,
        "distinct": asdict(summary.distinct),
        "dedup_ratio": round(summary.dedup_ratio, 4),
        "compression_ratio": round(_ratio(summary), 4),
        "chunk_sizes": [{"up_to": bound, "chunks": count} for bound, count in summary.histogram],
    }


def _text(image: OpenImage, summary: ImageSummary) -> str:
    rows = [["layer", "inodes", "index", "files", "data", "chunks", "new", "new, stored"]]
    for layer, sizes in zip(image.layers, summary.layers, strict=True):
        rows.append(
            [
                layer.diff_id[7:19],
                f"{sizes.inodes:,}",
                format_size(sizes.index_bytes),
                format_size(sizes.file_bytes),
                format_size(sizes.data_bytes),
                f"{sizes.listed.chunks:,}",
                f"{sizes.fresh.chunks:,}",
                format_size(sizes.fresh.frame_bytes),
            ]
        )
    distinct = summary.distinct
    totals = [
        f"{image.name} ({image.manifest_digest})",
        _origin(image),
        "",
        text_table(rows),
        "",
        f"distinct chunks    {distinct.chunks:,} with {format_size(distinct.plain_bytes)}, "
        f"stored in {format_size(distinct.frame_bytes)}",
        f"dedup ratio        {summary.dedup_ratio:.2f} (bytes of files to bytes of distinct chunks)",
        f"compression ratio  {_ratio(summary):.2f}",
    ]
    if summary.histogram:
        plot = bar_plot([(f"≤ {format_size(bound)}", count) for bound, count in summary.histogram])
        totals += ["", "chunks by size", plot]
    return "\n".join(totals)


def _origin(image: OpenImage) -> str:
    """Who vouches for the artifact."""
    artifact = image.known.artifact
    bound = "named by the image's own manifest, " if image.known.is_bound else ""
    if (signature := artifact.signature) is None:
        return f"index artifact: {bound}not signed"
    told = "signed by" if is_valid(artifact) else "WRONG SIGNATURE of"
    return f"index artifact: {bound}{told} {signature.key}"


def _ratio(summary: ImageSummary) -> float:
    distinct = summary.distinct
    return distinct.plain_bytes / distinct.frame_bytes if distinct.frame_bytes else 1.0
