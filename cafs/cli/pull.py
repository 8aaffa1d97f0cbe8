"""``cafs pull``: an image into containerd, lazily where it was converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.units import format_count, format_size
from cafs.errors import StateError, UsageError

if TYPE_CHECKING:
    from cafs.containerd.pull import Pulled


@click.command()
@click.argument("image")
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Which image of several; this machine's is usual."
)
@click.option(
    "--namespace", "-n", default="default", show_default=True, envvar="CONTAINERD_NAMESPACE",
    help="containerd's namespace: k8s.io for Kubernetes, moby for docker.",
)  # fmt: skip
@click.option(
    "--address", "-a", type=click.Path(path_type=Path), default="/run/containerd/containerd.sock",
    show_default=True, envvar="CONTAINERD_ADDRESS", help="containerd's socket.",
)  # fmt: skip
@click.option(
    "--snapshotter", default="cafs", show_default=True, envvar="CONTAINERD_SNAPSHOTTER",
    help="For which of containerd's snapshotters; any other than cafs pulls everything.",
)  # fmt: skip
@click.option(
    "--content", is_flag=True,
    help="Bring the layers' blobs too: what 'ctr image export', a push and other snapshotters ask for.",
)  # fmt: skip
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    image: str,
    platform: str | None,
    namespace: str,
    address: Path,
    snapshotter: str,
    content: bool,
) -> None:
    """Pull IMAGE into containerd: what was converted stays where it is and is read when it is needed.

    Afterwards it is an image as any other: 'ctr run --snapshotter cafs IMAGE NAME', nerdctl and Kubernetes
    (with --namespace k8s.io) start it. Layers that were not converted are downloaded and unpacked as always.
    Where 'cafs snapshotter' runs, a process that it keeps ready does the work.
    """
    # Not at module level: --help must not wait for grpc; and the mount server is told before grpc is loaded.
    from cafs.containerd.announce import announce  # noqa: PLC0415
    from cafs.control_socket.protocol import usual_socket  # noqa: PLC0415
    from cafs.oci.reference import RegistryReference, parse_reference  # noqa: PLC0415

    reference = parse_reference(image)
    if not isinstance(reference, RegistryReference):
        raise UsageError(f"{image} lies in no registry: containers are pulled from docker://HOST/REPOSITORY")
    mountd = usual_socket(context.settings.run_dir) if snapshotter == "cafs" else None
    if mountd is not None and platform is None and image != context.announced:
        announce(reference, mountd)
    import trio  # noqa: PLC0415

    try:
        from cafs.containerd.pull import PullRequest, pull  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    from cafs.oci.descriptor import parse_platform  # noqa: PLC0415

    request = PullRequest(
        reference=reference,
        platform=parse_platform(platform) if platform else None,
        address=address,
        namespace=namespace,
        snapshotter=snapshotter,
        content=content,
        mountd=mountd,
    )
    with context.progress() as progress:
        pulled = trio.run(pull, request, context.settings, progress)
    context.result(_document(pulled), _text(pulled, snapshotter))


def _document(pulled: Pulled) -> dict[str, object]:
    return {
        "image": pulled.image,
        "digest": pulled.digest,
        "chain_id": pulled.chain_id,
        "layers": pulled.layers,
        "unpacked_layers": pulled.unpacked_layers,
        "fetched_bytes": pulled.fetched_bytes,
    }


def _text(pulled: Pulled, snapshotter: str) -> str:
    done = format_count(pulled.layers, "layer")
    if pulled.unpacked_layers:
        size = format_size(pulled.fetched_bytes)
        done += f", {pulled.unpacked_layers} of them downloaded and unpacked ({size})"
        if snapshotter == "cafs":
            done += "; why they are not lazy is in the log of 'cafs snapshotter'"
    elif pulled.fetched_bytes:
        done += f", {format_size(pulled.fetched_bytes)} of content brought"
    else:
        done += ", nothing to download"
    return f"{pulled.image} ({pulled.digest}): {done}"
