"""``cafs convert``: build the index artifact of an image, a directory, a tar or an artifact."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from cafs.cli.context import Context
from cafs.cli.units import format_count, format_size
from cafs.convert.image import ImageResult
from cafs.convert.run import convert
from cafs.oci.descriptor import parse_platform


@click.command()
@click.argument("source")
@click.argument("target", required=False)
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Only this image of several, which comes to TARGET alone; all are usual.",
)
@click.option(
    "--chunk-dict",
    "dictionaries",
    multiple=True,
    metavar="REF",
    help="A converted image whose chunks are referred to instead of stored again; of several platforms, the"
    " one for the same. May be repeated.",
)
@click.option(
    "--sign-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sign the result with this Ed25519 key (PEM, as `openssl genpkey -algorithm ed25519` writes it).",
)
@click.option(
    "--image",
    "bound",
    metavar="NEWREF",
    help="Write a new image of the same layers whose own digest binds the result, instead of attaching it.",
)
@click.pass_obj
def command(
    context: Context,
    source: str,
    target: str | None,
    *,
    platform: str | None,
    dictionaries: tuple[str, ...],
    sign_key: Path | None,
    bound: str | None,
) -> None:
    """Convert SOURCE, so that it can be mounted before it has arrived.

    SOURCE is an image (HOST/REPOSITORY:TAG, oci:DIR:TAG, oci-archive:FILE, docker-archive:FILE), an OCI
    artifact, a directory (dir:PATH) or a tar (tar:FILE). The image itself stays as it is: the result is
    attached to it as a referrer, in TARGET, which is SOURCE unless given, and a profile of what its entry
    point will load. Layers that were converted before are not converted again.

    With --image the result is a new image instead, HOST/REPOSITORY:TAG or oci:DIR:TAG, which others pull as
    any image, and which CAFS mounts without asking for referrers.
    """
    wanted = parse_platform(platform) if platform else None
    with context.progress() as progress:
        outcome = trio.run(
            partial(
                convert,
                source,
                target,
                context.settings,
                progress,
                platform=wanted,
                dictionaries=dictionaries,
                sign_key=sign_key,
                bound=bound,
            )
        )
    documents = [_document(result) for result in outcome.images]
    lines = [_line(result) for result in outcome.images]
    if outcome.bound is not None:
        for document, manifest in zip(documents, outcome.bound.manifests, strict=True):
            document |= {"new_image": outcome.bound.index, "new_manifest": manifest.digest}
        lines.append(f"new image {outcome.bound.index}")
    context.result(documents, "\n".join(lines))


def _document(result: ImageResult) -> dict[str, Any]:
    layers = [
        {
            "digest": layer.layer.layer_digest,
            "diff_id": layer.layer.diff_id,
            "index_bytes": layer.layer.index.size,
            "plain_index_bytes": layer.layer.index_size,
            "chunk_bytes": layer.layer.chunks.size if layer.layer.chunks else 0,
            "other_blobs": [blob.digest for blob in layer.other_blobs],
        }
        for layer in result.layers
    ]
    return {
        "image": result.image,
        "artifact": result.artifact.digest,
        "converted_layers": result.new_layers,
        "layers": layers,
    }


def _line(result: ImageResult) -> str:
    index = sum(layer.layer.index.size for layer in result.layers)
    chunks = sum(layer.layer.chunks.size for layer in result.layers if layer.layer.chunks)
    before = len(result.layers) - result.new_layers
    return (
        f"artifact {result.artifact.digest}: {format_count(len(result.layers), 'layer')}"
        f" ({before} converted before),"
        f" {format_size(chunks)} of chunks, {format_size(index)} of indexes"
    )
