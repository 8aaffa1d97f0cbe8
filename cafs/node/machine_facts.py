"""What ``cafs doctor`` wants to know of a machine, as plain data. Gathered by ``machine_survey``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from cafs.containerd.setup import ProxyTable, Release
from cafs.node.containerd_config import ContainerdConfig


class Support(Enum):
    """Whether the kernel has something."""

    YES = "yes"
    MODULE = "module"
    """Not loaded, but there is a module that loads on first use or by modprobe."""
    NO = "no"


def kernel_version(release: str) -> tuple[int, int]:
    """Of a kernel's release as uname(2) tells it; (0, 0) where it tells none."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """The running kernel."""

    release: str
    version: tuple[int, int]
    fuse: Support
    erofs: Support
    overlay: Support


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """How mounting went: "" well, else the error; None: not tried."""

    untried: str = ""
    """Why nothing could be tried."""
    fuse: str | None = None
    erofs_file: str | None = None
    """An EROFS image, straight from the file that FUSE serves."""
    erofs_loop: str | None = None
    """The same through a loop device; tried where the kernel wants one."""
    overlay: str | None = None
    """Of two lower directories."""


@dataclass(frozen=True, slots=True)
class FuseFacts:
    """What mounting through FUSE needs in user space."""

    device: str
    """Why /dev/fuse cannot be opened; "" when it can."""
    helper: str | None
    """Path of fusermount3."""
    helper_setuid: bool


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """The directory of the chunk store."""

    path: str
    filesystem: str
    """Its type, as in /proc/self/mountinfo."""
    free_bytes: int
    used_bytes: int
    """By the chunk store that is there already."""
    problem: str
    """Why it cannot be written; "" when it can."""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """The services of CAFS on this node."""

    snapshotter: str
    """Why nobody answers where containerd looks for the snapshotter; "" when somebody does, or need not."""
    mountd_socket: str
    mountd: str
    """Why the mount server does not answer; "" when it does."""
    descriptor_store: int | None = None
    """How many descriptors systemd keeps for the mount server; None: it is no unit of systemd's."""
    plain_registries: tuple[str, ...] = ()
    """That containerd speaks plain HTTP to, and CAFS TLS."""
    answers_at: str = ""
    """Where the snapshotter does answer, when it is elsewhere."""
    has_root: bool = True
    """The directory is there that containerd is told to be the snapshotter's root."""


@dataclass(frozen=True, slots=True)
class ContainerdFacts:
    """The containerd of this machine, as far as its files tell."""

    version: Release | None
    """None: `containerd --version` said nothing we know."""
    config_path: str
    has_file: bool
    """False: there is no file at this path, and ``config`` is what containerd takes then."""
    config: ContainerdConfig | None
    problem: str
    """Why the configuration could not be read; "" when it could."""
    table: ProxyTable
    """What it should be told of our snapshotter."""
    services: ServiceFacts | None = None
    """None where containerd has no snapshotter ``cafs``."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything there is to judge."""

    is_root: bool
    kernel: KernelFacts
    fuse: FuseFacts
    trials: Trials
    cache: CacheFacts
    quota_bytes: int
    address_space_bytes: int | None
    """Limit of virtual memory of a process; None: none."""
    open_files: int
    user_namespaces: int
    """How many there may be."""
    containerd: ContainerdFacts | None
    """None: not installed."""
