"""Which tree a mount's server shows: the one place where the driver decides it."""

from __future__ import annotations

from collections.abc import Sequence

from cafs.fuse.flat import FlatTree, VirtualImage
from cafs.fuse.tree import FileTree
from cafs.node.opening import ReadyImage


def served_tree(driver: str, image: ReadyImage, contents: Sequence[VirtualImage]) -> FileTree:
    """The tree of this image.

    Args:
        driver: ``erofs`` or ``fuse``.
        image: Its layers, lowest first.
        contents: What is read of each of them.
    """
    if driver == "erofs":
        # An image may hold a layer twice: one file serves both.
        files = {layer.diff_id: content for layer, content in zip(image.layers, contents, strict=True)}
        return FlatTree(list(files.items()))
    from cafs.fuse.merged import MergedFileTree, MergedLayer  # noqa: PLC0415 - the usual mount does without

    pairs = zip(image.layers, contents, strict=True)
    return MergedFileTree([MergedLayer(layer.index, content) for layer, content in pairs])
