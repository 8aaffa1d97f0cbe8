"""What ``cafs doctor`` wants to know of a machine, as plain data. Gathered by ``machine_survey``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cafs.node.containerd_config import ContainerdConfig


class Support(Enum):
    """Whether the kernel has something."""

    YES = "yes"
    MODULE = "module"
    """Not loaded, but there is a module that loads on first use or by modprobe."""
    NO = "no"


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """The running kernel."""

    release: str
    version: tuple[int, int]
    fuse: Support
    erofs: Support
    overlay: Support
    loop: Support
    erofs_file_mount: str | None
    """How mounting an EROFS image from a plain file went: "" well, else the error; None: not tried."""
    overlay_mount: str | None
    """The same of an overlay of two lower directories."""


@dataclass(frozen=True, slots=True)
class FuseFacts:
    """What mounting through FUSE needs in user space."""

    device: str
    """Why /dev/fuse cannot be opened; "" when it can."""
    helper: str | None
    """Path of fusermount3."""
    helper_setuid: bool
    user_allow_other: bool
    """/etc/fuse.conf lets users share their mounts."""


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
class ContainerdFacts:
    """The containerd of this machine, as far as its files tell."""

    version: tuple[int, int] | None
    """None: `containerd --version` said nothing we know."""
    config_path: str
    config: ContainerdConfig | None
    problem: str
    """Why the configuration could not be read; "" when it could."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything there is to judge."""

    is_root: bool
    kernel: KernelFacts
    fuse: FuseFacts
    cache: CacheFacts
    quota_bytes: int
    address_space_bytes: int | None
    """Limit of virtual memory of a process; None: none."""
    open_files: int
    user_namespaces: int
    """How many there may be."""
    containerd: ContainerdFacts | None
    """None: not installed."""
