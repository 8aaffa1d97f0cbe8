"""What containerd is told of our snapshotter, and that its own parser and ours read it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cafs.containerd.setup import NEWEST, containerd_lines, parse_release, proxy_table
from cafs.errors import UsageError
from cafs.node.containerd_config import ProxyPlugin, parse_containerd_config
from tests.support.program import run_cafs

TABLE = proxy_table(Path("/run/cafs/s.sock"), Path("/var/lib/cafs/s"), "x86_64", (6, 12))


@pytest.mark.parametrize("release", ["1.6", "1.7", "2.0", "2.1"])
def test_the_lines_are_what_the_doctor_looks_for(release: str) -> None:
    text = containerd_lines(parse_release(release), TABLE)
    config = parse_containerd_config([text])
    assert (config.snapshotter, config.snapshot_annotations) == ("cafs", True)
    assert config.format == parse_release(release).newest_format
    more = ("linux/amd64", "/var/lib/cafs/s", ("remap-ids",)) if release[0] == "2" else ()
    assert config.snapshotter_plugins == (ProxyPlugin("cafs", "/run/cafs/s.sock", *more),)


def test_each_release_is_told_what_it_knows() -> None:
    old, first, newest = (
        tomllib.loads(containerd_lines(parse_release(release), TABLE)) for release in ("1.7.24", "2.0.5", "2")
    )
    assert old["proxy_plugins"]["cafs"].keys() == {"type", "address"}
    images = "io.containerd.cri.v1.images"
    assert "use_local_image_pull" not in first["plugins"][images]
    assert newest["plugins"][images]["use_local_image_pull"] is True


@pytest.mark.parametrize(
    ("machine", "platform"),
    [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64"), ("armv7l", "linux/arm/v7")],
)
def test_a_machine_is_named_as_containerd_does(machine: str, platform: str) -> None:
    assert proxy_table(Path("/s"), Path("/r"), machine, (6, 1)).platform == platform


def test_an_old_kernel_maps_no_ids() -> None:
    table = proxy_table(Path("/s"), Path("/r"), "x86_64", (5, 15))
    assert "capabilities" not in containerd_lines(NEWEST, table)


@pytest.mark.parametrize(
    ("text", "release"),
    [("1.6", (1, 6)), ("1.6.20~ds1", (1, 6)), ("1.7.24", (1, 7)), ("2.0", (2, 0)), ("v2.14.1-rc.2", (2, 14))],
)
def test_releases_are_read(text: str, release: tuple[int, int]) -> None:
    assert parse_release(text) == release


@pytest.mark.parametrize("text", ["", "1", "1.5", "3.0", "2.", "2.x", "two", "2.0\n", "1.1000"])
def test_what_is_no_release_that_is_supported(text: str) -> None:
    with pytest.raises(UsageError, match=r"1\.6, 1\.7, 2"):
        parse_release(text)


def test_the_command_prints_them_for_the_containerd_that_is_installed(tmp_path: Path) -> None:
    program = tmp_path / "containerd"
    program.write_text("#!/bin/sh\necho containerd github.com/containerd/containerd/v2 v2.1.3 0123abcd\n")
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert run_cafs("--json", "snapshotter", "--print-config", env=env).json["containerd"] == "2.1"
    program.write_text("#!/bin/sh\necho containerd containerd.io 1.7.24 0123abcd\n")
    assert run_cafs("snapshotter", "--print-config", env=env).out.startswith("version = 2\n")
    lines = run_cafs("snapshotter", "--print-config", "--containerd", "2", env=env).out
    assert parse_containerd_config([lines]).format == 3
    assert "write 1.6" in run_cafs("snapshotter", "--print-config", "--containerd", "0.1", code=2).err
