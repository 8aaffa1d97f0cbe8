"""Records the access profile of a container's start, and attaches it to its image."""

from __future__ import annotations

from pathlib import Path

from bench.containers.start import prepared, ready
from bench.images.layout import PATH
from bench.images.recipes import Recipe
from demo.cafs_command import CafsHome
from demo.node import Node
from demo.process import run


def record_profile(node: Node, near: CafsHome, recipe: Recipe, image: str) -> None:
    """Start ``image`` once from a recording mount; ``near`` reaches the registry on its own side.

    Raises:
        DemoError: it does not become ready, or nothing could be recorded.
    """
    assert node.home is not None
    place = node.home.place / "record"
    profile, layers, upper, work, root = (place / name for name in ("profile", "m", "upper", "work", "root"))
    for path in (upper, work, root):
        path.mkdir(parents=True)
    recorder = CafsHome(place / "home", node.home.enter, node.home.insecure)
    with recorder.mounted(f"docker://{node.reference(image)}", layers, ["--record", str(profile)]):
        options = f"lowerdir={layers},upperdir={upper},workdir={work}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", root])
        try:
            _start(node, recipe, root)
        finally:
            run(["umount", root])
    near.call("profile", "push", profile, f"docker://{near.insecure[0]}/{image}")


def _start(node: Node, recipe: Recipe, root: Path) -> None:
    name = "record"
    with prepared(node, recipe, name) as options:
        words = [*options, "--env", PATH, "--rootfs"]
        command = node.containerd.run_command("", words, str(root), name, recipe.command)
        with ready(node, command, recipe, name):
            pass
