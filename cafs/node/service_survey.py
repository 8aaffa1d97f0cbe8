"""Gathers what ``cafs doctor`` wants to know of containerd and of our services. Changes nothing."""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import subprocess
from collections import deque
from pathlib import Path

from cafs.containerd.setup import NAME, ProxyTable, proxy_table, usual_address, usual_root
from cafs.control_socket.blocking import BlockingClient
from cafs.control_socket.protocol import usual_socket
from cafs.core.settings import Settings
from cafs.errors import CafsError, UsageError
from cafs.node.containerd_config import (
    ContainerdConfig,
    imports_of,
    parse_containerd_config,
    uses_plain_http,
)
from cafs.node.containerd_version import installed_release
from cafs.node.machine_facts import ContainerdFacts, ServiceFacts, kernel_version
from cafs.oci.registry.address import scheme_for

USUAL_CONFIG = Path("/etc/containerd/config.toml")
_UNIT = "cafs-mountd.service"
_ANSWER_S = 5.0
_MAX_REGISTRIES = 1000


def survey_containerd(named: Path | None, settings: Settings) -> ContainerdFacts | None:
    """containerd as it is set up; None where there is none.

    Args:
        named: Its configuration, which is there; None: the usual one, if that is there.
        settings: Ours.
    """
    program, path = shutil.which("containerd"), named or USUAL_CONFIG
    is_there = _is_there(path)
    if program is None and not is_there:
        return None
    problem, config, release = "", None, installed_release()
    try:
        config = parse_containerd_config(_texts(path) if is_there else ["version = 2"], release)
    except (UnicodeDecodeError, UsageError) as e:
        problem = str(e)
    except OSError as e:
        imported = "" if e.filename in {None, str(path)} else f": {e.filename}"
        problem = f"{e.strerror or e}{imported}"
    services = _services(config, settings) if config is not None else None
    return ContainerdFacts(release, str(path), is_there, config, problem, _table(settings), services)


def _is_there(path: Path) -> bool:
    """True also where one may not look: who reads it hears why it cannot be."""
    try:
        return path.exists()
    except OSError:
        return True


def _table(settings: Settings) -> ProxyTable:
    machine = os.uname()
    address, root = usual_address(settings.run_dir), usual_root(settings.cache_dir)
    return proxy_table(address, root, machine.machine, kernel_version(machine.release))


def _texts(path: Path) -> list[str]:
    """Of a configuration and of all that is imported, by an imported file too, in containerd's order."""
    texts: dict[Path, str] = {}
    pending = deque([path])
    while pending:
        file = pending.popleft()
        if file not in texts:
            texts[file] = file.read_text()
            pending += [found for name in imports_of(texts[file]) for found in _imported(file.parent / name)]
    return list(texts.values())


def _imported(path: Path) -> list[Path]:
    """A pattern may match nothing; a file that is named has to be there."""
    name = os.path.normpath(path)
    # glob and not Path.glob: patterns are absolute as often as not.
    names = sorted(glob.glob(name)) if "*" in name else [name]  # noqa: PTH207 -- see above
    return [Path(name) for name in names]


def _services(config: ContainerdConfig, settings: Settings) -> ServiceFacts | None:
    plugin = next((plugin for plugin in config.snapshotter_plugins if plugin.name == NAME), None)
    if plugin is None:
        return None
    mountd = usual_socket(settings.run_dir)
    silent, usual = _why_silent(Path(plugin.address.removeprefix("unix://"))), usual_address(settings.run_dir)
    return ServiceFacts(
        snapshotter=silent,
        answers_at=str(usual) if silent and not _why_silent(usual) else "",
        has_root=bool(plugin.root) and _is_there(Path(plugin.root)),
        mountd_socket=str(mountd),
        mountd=_why_mountd_is_silent(mountd),
        descriptor_store=_descriptor_store(),
        plain_registries=_plain_registries(config, settings),
    )


def _why_silent(address: Path) -> str:
    """Why a socket cannot be connected to; "" when it can."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_ANSWER_S)
            probe.connect(str(address))
    except OSError as e:
        return e.strerror or str(e)
    return ""


def _why_mountd_is_silent(address: Path) -> str:
    if problem := _why_silent(address):
        return problem
    try:
        BlockingClient(address, patience_s=_ANSWER_S, away_patience_s=0).status()
    except CafsError as e:
        return str(e)
    return ""


def _descriptor_store() -> int | None:
    """FileDescriptorStoreMax of the mount server's unit."""
    if not Path("/run/systemd/system").is_dir():
        return None
    asked = ["systemctl", "show", _UNIT, "--property=LoadState,FileDescriptorStoreMax"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^FileDescriptorStoreMax=(\d+)$", said, re.MULTILINE)
    return int(found[1]) if found and "LoadState=loaded" in said else None


def _plain_registries(config: ContainerdConfig, settings: Settings) -> tuple[str, ...]:
    """Those that a ``hosts.toml`` serves in plain HTTP and our settings do not."""
    found = []
    for folder in config.hosts_folders:
        for path in sorted(Path(folder).glob("*/hosts.toml"))[:_MAX_REGISTRIES]:
            host = path.parent.name
            if host == "_default" or scheme_for(host, settings.insecure_registries)[0] == "http":
                continue
            try:
                if uses_plain_http(path.read_text()):
                    found.append(host)
            except (OSError, UnicodeDecodeError, UsageError):
                continue  # containerd tells its user
    return tuple(found)
