"""Which tree a mount's server shows: the one place where the driver decides it."""

from __future__ import annotations

from collections.abc import Sequence

from cafs.fuse.flat import FlatTree, VirtualImage
from cafs.fuse.tree import FileTree
from cafs.node.mount_state import EROFS_FILE
from cafs.node.opening import ReadyImage


def served_tree(driver: str, image: ReadyImage, contents: Sequence[VirtualImage]) -> FileTree:
    """The tree of this image.

    Args:
        driver: ``erofs`` or ``fuse``.
        image: Its layers, lowest first.
        contents: What is read of each of them.
    """
    if driver == "erofs":
        return FlatTree([(EROFS_FILE, _erofs_image(image, contents))])
    from cafs.fuse.merged import MergedFileTree, MergedLayer  # noqa: PLC0415 - the usual mount does without

    pairs = zip(image.layers, contents, strict=True)
    return MergedFileTree([MergedLayer(layer.index, content) for layer, content in pairs])


def _erofs_image(image: ReadyImage, contents: Sequence[VirtualImage]) -> VirtualImage:
    """What the kernel mounts."""
    if image.merged is None:
        (content,) = contents
        return content
    from cafs.fuse.merged_image import LayerData, MergedImage  # noqa: PLC0415 - one layer does without

    pairs = zip(image.layers, contents, strict=True)
    parts = [LayerData(content, layer.index.header.metadata_bytes) for layer, content in pairs]
    return MergedImage(image.merged.metadata, parts)
