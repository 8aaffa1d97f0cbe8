"""Judges containerd's set-up. Pure; part of ``doctor``.

CAFS has no snapshotter for containerd yet. So these findings tell how containerd is set up, and call
wrong only what is wrong today.
"""

from __future__ import annotations

from collections.abc import Iterator

from cafs.node.containerd_config import ContainerdConfig
from cafs.node.finding import Finding, Level
from cafs.node.machine_facts import ContainerdFacts

_OLDEST = (1, 6)
# They make no use of what a registry knows of a layer.
_LOCAL_SNAPSHOTTERS = frozenset(("overlayfs", "native", "btrfs", "zfs", "devmapper", "blockfile", "erofs"))


def diagnose_containerd(facts: ContainerdFacts | None) -> Iterator[Finding]:
    """All findings about containerd."""
    if facts is None:
        yield Finding(Level.OK, "containerd", "not installed; cafs mount does not need it")
        return
    yield _version(facts)
    if facts.problem:
        yield Finding(
            Level.WARN,
            "containerd config",
            f"{facts.config_path}: {facts.problem}",
            "its set-up could not be checked",
            f"correct the file, or make a fresh one: containerd config default > {facts.config_path}",
        )
    elif facts.config is not None:
        yield from _set_up(facts, facts.config)


def _version(facts: ContainerdFacts) -> Finding:
    if facts.version is None:
        why = "its configuration is judged by its file alone"
        return Finding(Level.WARN, "containerd", "installed, version not known", why, "containerd --version")
    said = ".".join(map(str, facts.version))
    if facts.version < _OLDEST:
        why = "older ones than 1.6 are not supported by anybody any more"
        return Finding(Level.WARN, "containerd", f"version {said}", why, "apt-get install containerd")
    return Finding(Level.OK, "containerd", f"version {said}")


def _set_up(facts: ContainerdFacts, config: ContainerdConfig) -> Iterator[Finding]:
    yield Finding(Level.OK, "containerd config", f"{facts.config_path}, format {config.format}")
    if config.cri_disabled:
        yield Finding(Level.OK, "containerd CRI", "disabled: this containerd serves no Kubernetes")
        return
    yield _snapshotter(facts, config)
    yield _annotations(facts, config)


def _snapshotter(facts: ContainerdFacts, config: ContainerdConfig) -> Finding:
    subject, name = "snapshotter", config.snapshotter
    plugin = next((plugin for plugin in config.snapshotter_plugins if plugin.name == name), None)
    reset = _edit(facts, config, 'snapshotter = "overlayfs"')
    if name == "cafs":
        why = "pulls fail: this version of CAFS brings no snapshotter for containerd yet"
        return Finding(Level.FAIL, subject, "set to cafs", why, reset)
    if name not in _LOCAL_SNAPSHOTTERS and plugin is None:
        why = "pulls fail: no table proxy_plugins of that name says where it listens"
        return Finding(Level.FAIL, subject, f"set to {name}", why, reset)
    where = f" at {plugin.address}" if plugin else ""
    return Finding(Level.OK, subject, f"{name}{where}")


def _annotations(facts: ContainerdFacts, config: ContainerdConfig) -> Finding:
    subject = "snapshot labels"
    if config.snapshot_annotations:
        return Finding(Level.OK, subject, "passed to the snapshotter")
    if config.snapshotter in _LOCAL_SNAPSHOTTERS:
        what = f"not passed (the default); {config.snapshotter} needs none, a lazy snapshotter will"
        return Finding(Level.OK, subject, what)
    why = f"{config.snapshotter} is not told which image it prepares, so it downloads layers whole"
    return Finding(
        Level.WARN,
        subject,
        "not passed to the snapshotter",
        why,
        _edit(facts, config, "disable_snapshot_annotations = false"),
    )


def _edit(facts: ContainerdFacts, config: ContainerdConfig, line: str) -> str:
    return f"in {facts.config_path}, [{config.cri_section}]: {line}; then: systemctl restart containerd"
