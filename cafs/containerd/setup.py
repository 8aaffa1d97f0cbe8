"""What containerd has to be told so that it uses our snapshotter. Pure.

Printed by ``cafs snapshotter --print-config``; ``cafs doctor`` holds what is there against it. Sources:
containerd, docs/PLUGINS.md (proxy plugins) and docs/cri/config.md, of 1.6, 1.7 and 2.x. Since 2.0 a proxy
plugin says its platform, what it exports and what it is capable of. Since 2.1 CRI pulls through the transfer
service, which needs an ``unpack_config`` for each snapshotter, unless ``use_local_image_pull`` has it pull as
before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cafs.errors import UsageError

NAME = "cafs"
"""What containerd calls our snapshotter."""
REMAP_IDS = "remap-ids"
"""The capability: for a pod with a user namespace containerd copies nothing, our mounts map its ids."""
IDMAPPED_EROFS_SINCE = (5, 19)
"""Linux maps ids of EROFS mounts from here on."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7"}
"""Where containerd's name is another one than uname(2)'s."""
_RELEASE = re.compile(r"v?(\d{1,3})\.(\d{1,3})(?:[.~+-]\S{0,100})?", re.ASCII)


class Release(NamedTuple):
    """Of containerd."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def newest_format(self) -> int:
        """Of configurations that it understands. It takes newer ones too, and ignores what is new in them."""
        if self.major < 2:
            return 2
        return 4 if self >= (2, 3) else 3


OLDEST = Release(1, 6)
NEWEST = Release(2, 1)
"""Later ones are told the same, as far as we know."""


@dataclass(frozen=True, slots=True)
class ProxyTable:
    """The table ``proxy_plugins.cafs``; what 1.x does not know is not printed for it."""

    address: Path
    """The snapshotter's socket."""
    root: Path
    """Where its snapshots are: CRI tells kubelet how full that disk is."""
    platform: str
    """Of this machine, as containerd writes it."""
    maps_ids: bool
    """The kernel can."""


def proxy_table(address: Path, root: Path, machine: str, kernel: tuple[int, int]) -> ProxyTable:
    """What the table has to say.

    Args:
        address: The snapshotter's socket.
        root: Where its snapshots are.
        machine: As uname(2) calls it.
        kernel: Its version.
    """
    platform = f"linux/{_MACHINES.get(machine, machine)}"
    return ProxyTable(address, root, platform, kernel >= IDMAPPED_EROFS_SINCE)


def usual_address(run_dir: Path) -> Path:
    """Where the snapshotter listens unless it is told otherwise."""
    return run_dir / "snapshotter.sock"


def usual_root(cache_dir: Path) -> Path:
    """Where it keeps snapshots unless it is told otherwise."""
    return cache_dir / "s"


def parse_release(text: str) -> Release:
    """``1.6``, ``1.7.24``, ``2.0``, ``v2.1.3``; a bare ``2`` is the newest that we know of.

    Raises:
        UsageError: it is none, or one that is too old.
    """
    match = _RELEASE.fullmatch(text)
    release = Release(int(match[1]), int(match[2])) if match else NEWEST if text == "2" else None
    if release is None or not OLDEST <= release < (3, 0):
        raise UsageError(f"{text!r} is no release of containerd that is supported: write 1.6, 1.7, 2 or 2.1")
    return release


def containerd_lines(release: Release, table: ProxyTable) -> str:
    """What is to be put into ``/etc/containerd/config.toml``."""
    return _lines_2(release, table) if release.major >= 2 else _lines_1(table)


def _lines_1(table: ProxyTable) -> str:
    return f"""\
version = 2

[proxy_plugins.{NAME}]
  type = "snapshot"
  address = "{table.address}"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{NAME}"
  disable_snapshot_annotations = false
"""


def _lines_2(release: Release, table: ProxyTable) -> str:
    capabilities = f'  capabilities = ["{REMAP_IDS}"]\n' if table.maps_ids else ""
    local_pull = "  use_local_image_pull = true\n" if release >= (2, 1) else ""
    return f"""\
version = 3

[proxy_plugins.{NAME}]
  type = "snapshot"
  address = "{table.address}"
  platform = "{table.platform}"
{capabilities}  [proxy_plugins.{NAME}.exports]
    root = "{table.root}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{NAME}"
  disable_snapshot_annotations = false
{local_pull}"""
