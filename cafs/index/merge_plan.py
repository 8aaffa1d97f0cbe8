"""Which directories of a merged tree lie in no layer just as they are seen. Pure.

Used by ``cafs.index.merge_layers``: only these have to be made anew, everything else of an image is taken
over from its layers as it is. They are the root, the directories that several layers share, and those in
which a whiteout lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cafs.index.merge import LayerNid, MergedTree, Stack


@dataclass(frozen=True, slots=True)
class NewDirectory:
    """A directory to be made."""

    stack: Stack
    """The layers' directories in whose place it comes, top first; its attributes are the top's."""
    parent: LayerNid
    """The directory above it, or one of those in whose place that comes."""
    children: tuple[tuple[bytes, LayerNid], ...]
    """What is seen in it, sorted by name; of a directory of several layers, the top one."""


def plan_new_directories(tree: MergedTree, with_whiteouts: Sequence[Iterable[int]]) -> list[NewDirectory]:
    """The directories to make, the root first, parents before children where both are of several layers.

    Args:
        tree: The image.
        with_whiteouts: Of each layer, lowest first, the nids of the directories that hold whiteouts.

    Raises:
        IntegrityError: a layer is damaged.
    """
    new = _plan_shared(tree)
    done = {part for directory in new for part in directory.stack}
    for layer, nids in enumerate(with_whiteouts):
        for nid in nids:
            top = LayerNid(layer, nid)
            if top not in done:
                parent = LayerNid(layer, tree.reader(layer).parent(nid))
                new.append(NewDirectory((top,), parent, _tops(tree.children((top,)))))
    return new


def _plan_shared(tree: MergedTree) -> list[NewDirectory]:
    new: list[NewDirectory] = []
    pending = [(tree.root, tree.root[0])]
    while pending:
        stack, parent = pending.pop()
        children = tree.children(stack)
        new.append(NewDirectory(stack, parent, _tops(children)))
        pending += [(child, stack[0]) for _, child in reversed(children) if len(child) > 1]
    return new


def _tops(children: Sequence[tuple[bytes, Stack]]) -> tuple[tuple[bytes, LayerNid], ...]:
    return tuple((name, stack[0]) for name, stack in children)
