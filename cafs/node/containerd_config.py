"""Reads what matters of containerd's configuration, in each of its formats. Pure.

Formats: version 1 (before 1.3, no ``version`` key), 2 (1.3 to 1.7) and 3 (2.x). Source: containerd,
``docs/PLUGINS.md``, ``docs/cri/config.md`` and the output of ``containerd config default``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cafs.errors import UsageError


@dataclass(frozen=True, slots=True)
class ProxyPlugin:
    """A snapshotter that is a process of its own."""

    name: str
    address: str
    platform: str = ""
    root: str = ""
    """Of its exports."""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerdConfig:
    """The facts that decide about snapshotters."""

    format: int
    cri_disabled: bool
    snapshotter: str
    """That CRI unpacks images with."""
    snapshot_annotations: bool
    """CRI tells the snapshotter which image and layer it prepares; off by default."""
    cri_section: str
    """The table that holds both settings, as it is written in the file."""
    snapshotter_plugins: tuple[ProxyPlugin, ...]
    hosts_folders: tuple[str, ...] = ()
    """Where ``REGISTRY/hosts.toml`` files are."""


_CRI_TABLES = {
    1: ("cri",),
    2: ("io.containerd.grpc.v1.cri",),
    3: ("io.containerd.cri.v1.images",),
}
# In formats 1 and 2 the settings are in CRI's sub-table `containerd`, in 3 in the plugin's own table.
_SUB_TABLES = {1: ("containerd",), 2: ("containerd",), 3: ()}


def imports_of(text: str) -> tuple[str, ...]:
    """The files that a configuration imports: paths with ``*``, relative to its own folder.

    Raises:
        UsageError: it is not valid.
    """
    value = _parse(text).get("imports", [])
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def parse_containerd_config(texts: Sequence[str]) -> ContainerdConfig:
    """Read a configuration and what it imports, in that order: the later wins, as in containerd.

    Raises:
        UsageError: one of them is not valid TOML, or not a configuration.
    """
    merged: dict[str, Any] = {}
    for text in texts:
        _merge(merged, _parse(text))
    version = merged.get("version", 1)
    if not isinstance(version, int) or version not in _CRI_TABLES:
        raise UsageError(f"version {version!r} of the format is not known")
    keys = ("plugins", *_CRI_TABLES[version], *_SUB_TABLES[version])
    table = _table(merged, *keys)
    registry = _table(merged, "plugins", *_CRI_TABLES[version], "registry")
    disabled = merged.get("disabled_plugins") or []
    return ContainerdConfig(
        format=version,
        cri_disabled=any(name in disabled for name in ("cri", *_CRI_TABLES[version])),
        snapshotter=str(table.get("snapshotter") or "overlayfs"),
        snapshot_annotations=table.get("disable_snapshot_annotations", True) is False,
        cri_section=".".join(f'"{key}"' if "." in key else key for key in keys),
        snapshotter_plugins=tuple(
            _proxy_plugin(name, plugin)
            for name, plugin in _table(merged, "proxy_plugins").items()
            if isinstance(plugin, dict) and plugin.get("type") == "snapshot"
        ),
        hosts_folders=tuple(folder for folder in str(registry.get("config_path") or "").split(":") if folder),
    )


def _proxy_plugin(name: str, table: Mapping[str, Any]) -> ProxyPlugin:
    capabilities = table.get("capabilities")
    return ProxyPlugin(
        name,
        str(table.get("address", "")),
        str(table.get("platform", "")),
        str(_table(table, "exports").get("root", "")),
        tuple(map(str, capabilities)) if isinstance(capabilities, list) else (),
    )


def uses_plain_http(hosts_toml: str) -> bool:
    """Whether a ``hosts.toml`` sends the registry's own requests in plain HTTP.

    Raises:
        UsageError: it is not valid.
    """
    return str(_parse(hosts_toml).get("server", "")).startswith("http://")


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"not valid TOML: {e}") from e


def _merge(into: dict[str, Any], later: Mapping[str, Any]) -> None:
    for key, value in later.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            into[key] = value


def _table(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The table at a path of keys; an empty one where there is none."""
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
