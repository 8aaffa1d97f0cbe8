"""What is told of a pull before its command line is parsed is what the command line says, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cli.foreseen_pull import foresee_image
from cafs.cli.main import cli

WORDS = st.sampled_from([
    "pull", "app", "r.test/app:v1", "--json", "--quiet", "--debug", "--content", "--config", "--config=/c",
    "--set", "--set=retries=1", "-n", "-nk8s.io", "--namespace", "--namespace=moby", "k8s.io", "--address",
    "-a", "/c.sock", "--platform", "--platform=linux/arm64", "--snapshotter", "--snapshotter=overlayfs",
    "--snapshotter=cafs", "cafs", "--", "--wrong", "-h", "",
])  # fmt: skip


@pytest.mark.parametrize(
    ("line", "environment", "image"),
    [
        ("pull app", {}, "app"),
        ("--quiet --set retries=1 pull -n k8s.io --address /c.sock app --content", {}, "app"),
        ("pull --namespace=k8s.io app", {"CONTAINERD_SNAPSHOTTER": "cafs"}, "app"),
        ("pull app", {"CONTAINERD_SNAPSHOTTER": "overlayfs"}, None),
        ("pull app --snapshotter cafs", {"CONTAINERD_SNAPSHOTTER": "overlayfs"}, "app"),
        ("pull app --snapshotter=cafs --snapshotter overlayfs", {}, None),
        ("pull --platform=linux/arm64 app", {}, None),
        ("pull app other", {}, None),
        ("pull", {}, None),
        ("pull -n app", {}, None),
        ("mount app", {}, None),
        ("", {}, None),
    ],
)
def test_the_image_of_a_command_line(line: str, environment: Mapping[str, str], image: str | None) -> None:
    assert foresee_image(line.split(), environment) == image


def parsed(arguments: Sequence[str]) -> dict[str, object] | None:
    """The parameters of ``pull`` as the program itself reads them; None where it does not get to that."""
    command = cli.commands.get("pull") or cli.get_command(click.Context(cli), "pull")
    try:
        top = cli.make_context("cafs", list(arguments), resilient_parsing=False)
        name, *rest = [*top._protected_args, *top.args]
        if name != "pull":
            return None
        assert command is not None
        return dict(command.make_context("pull", rest, parent=top).params)
    except (click.ClickException, click.exceptions.Exit, ValueError):
        return None


@given(st.lists(WORDS, max_size=7))
def test_it_is_what_the_program_reads(arguments: Sequence[str]) -> None:
    image = foresee_image(arguments, {})
    if image is not None and (said := parsed(arguments)) is not None:
        assert (said["image"], said["platform"], said["snapshotter"]) == (image, None, "cafs")
