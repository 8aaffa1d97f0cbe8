"""Reads what matters of containerd's configuration, in each of its formats. Pure.

Formats: version 1 (before 1.3, no ``version`` key), 2 (1.3 to 1.7), 3 (2.0 to 2.2) and 4 (from 2.3 on;
what moved in it is nothing to us). Source: containerd, ``docs/PLUGINS.md``, ``docs/cri/config.md`` and the
output of ``containerd config default``; of imports ``LoadConfig`` and ``mergeConfig`` in its ``config.go``:
1.x takes of a plugin only what the last file says that names it, 2.x takes together what all of them say
(containerd's pull request 9982), each file read by its own format.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cafs.containerd.setup import Release
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


_CRI_1, _CRI_2, _CRI_3 = "cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"
_CRI_TABLES = {1: _CRI_1, 2: _CRI_2, 3: _CRI_3, 4: _CRI_3}
# In formats 1 and 2 the settings are in CRI's sub-table `containerd`, later in the plugin's own table.
_SUB_TABLES = {_CRI_1: ("containerd",), _CRI_2: ("containerd",), _CRI_3: ()}
_SETTINGS = ("snapshotter", "disable_snapshot_annotations")


def imports_of(text: str) -> tuple[str, ...]:
    """The files that a configuration imports: paths with ``*``, relative to its own folder.

    Raises:
        UsageError: it is not valid.
    """
    value = _parse(text).get("imports", [])
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def parse_containerd_config(texts: Sequence[str], release: Release | None = None) -> ContainerdConfig:
    """Read a configuration and what it imports, in the order in which containerd loads them.

    Args:
        texts: Of the files, the configuration itself first.
        release: Of the containerd that reads it; None: one whose newest format that is.

    Raises:
        UsageError: one of them is not valid TOML, or not a configuration.
    """
    documents = [_parse(text) for text in texts]
    version = documents[0].get("version", 1)
    if not isinstance(version, int) or version not in _CRI_TABLES:
        raise UsageError(f"version {version!r} of the format is not known")
    is_2 = version >= 3 if release is None else release.major >= 2
    said: dict[str, Any] = {}
    proxies: dict[str, Any] = {}
    disabled: list[Any] = []
    for document in documents:
        for name in _tables_of_2(document) if is_2 else (_CRI_TABLES[version],):
            if isinstance(table := _table(document, "plugins").get(name), dict):
                said = (said if is_2 else {}) | _cri_settings(table, _SUB_TABLES[name])
        proxies.update(_table(document, "proxy_plugins"))
        names = document.get("disabled_plugins")
        disabled += names if isinstance(names, list) else []
    keys = ("plugins", _CRI_TABLES[version], *_SUB_TABLES[_CRI_TABLES[version]])
    return ContainerdConfig(
        format=version,
        cri_disabled=any(name in disabled for name in _CRI_TABLES.values()),
        snapshotter=str(said.get("snapshotter") or "overlayfs"),
        snapshot_annotations=said.get("disable_snapshot_annotations", True) is False,
        cri_section=".".join(f'"{key}"' if "." in key else key for key in keys),
        snapshotter_plugins=tuple(
            _proxy_plugin(name, plugin)
            for name, plugin in proxies.items()
            if isinstance(plugin, dict) and plugin.get("type") == "snapshot"
        ),
        hosts_folders=tuple(filter(None, str(said.get("config_path") or "").split(":"))),
    )


def _tables_of_2(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Where 2.x finds CRI's settings: files of older formats, or that name none, it brings up to date."""
    version = document.get("version", 1)
    is_older = isinstance(version, int) and version < 3
    return (_CRI_1, _CRI_2, _CRI_3) if is_older else (_CRI_3,)


def _cri_settings(table: Mapping[str, Any], below: Sequence[str]) -> dict[str, Any]:
    """What one table of CRI's says of images."""
    settings = _table(table, *below)
    found = {key: settings[key] for key in _SETTINGS if key in settings}
    registry = _table(table, "registry")
    return found | {key: registry[key] for key in ("config_path",) if key in registry}


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


def _table(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The table at a path of keys; an empty one where there is none."""
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
