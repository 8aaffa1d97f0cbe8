"""Judges containerd's set-up. Pure; part of ``doctor``.

Says whether containerd is set up for ``cafs snapshotter``, as ``--print-config`` prints it, and whether those
answer that it then relies on. A containerd that does not use CAFS is well.
"""

from __future__ import annotations

from collections.abc import Iterator

from cafs.containerd.setup import NAME, OLDEST
from cafs.node.containerd_config import ContainerdConfig, ProxyPlugin
from cafs.node.doctor_plugin import RESTART, diagnose_plugin
from cafs.node.finding import Finding, Level
from cafs.node.machine_facts import ContainerdFacts, ServiceFacts

LEAST_DESCRIPTORS = 4
_PRINT_CONFIG = "cafs snapshotter --print-config"
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
    said = f"version {facts.version}"
    if facts.version < OLDEST:
        why = f"older ones than {OLDEST} are not supported by anybody any more"
        return Finding(Level.WARN, "containerd", said, why, "apt-get install containerd")
    return Finding(Level.OK, "containerd", said)


def _set_up(facts: ContainerdFacts, config: ContainerdConfig) -> Iterator[Finding]:
    yield _format(facts, config)
    plugin = next((plugin for plugin in config.snapshotter_plugins if plugin.name == NAME), None)
    if plugin is None and config.snapshotter != NAME:
        what = f"not set up: add what '{_PRINT_CONFIG}' prints to {facts.config_path}"
        yield Finding(Level.OK, "snapshotter cafs", what)
    if plugin is not None and facts.services is not None:
        yield from _services(facts, plugin, facts.services)
        yield from diagnose_plugin(facts, config, plugin, facts.services)
    if config.cri_disabled:
        yield Finding(Level.OK, "containerd CRI", "disabled: this containerd serves no Kubernetes")
        return
    yield _snapshotter(facts, config)
    yield _annotations(facts, config)


def _format(facts: ContainerdFacts, config: ContainerdConfig) -> Finding:
    subject, written = "containerd config", f"{facts.config_path}, format {config.format}"
    if not facts.has_file:
        return Finding(Level.OK, subject, f"no {facts.config_path}: containerd's defaults apply")
    if facts.version is not None and config.format > facts.version.newest_format:
        newest = facts.version.newest_format
        why = f"{facts.version} understands format {newest} and ignores what is new in {config.format}"
        mend = f"write it in format {newest}, with what '{_PRINT_CONFIG}' prints; then: {RESTART}"
        return Finding(Level.FAIL, subject, written, why, mend)
    return Finding(Level.OK, subject, written)


def _services(facts: ContainerdFacts, plugin: ProxyPlugin, services: ServiceFacts) -> Iterator[Finding]:
    """Whether those are there that containerd relies on now."""
    subject = "snapshotter cafs"
    if services.snapshotter:
        what = f"nobody answers at {plugin.address}: {services.snapshotter}"
        why = "containerd can neither pull for it nor start containers from it"
        mend = f"systemctl start cafs-snapshotter (or: cafs snapshotter --address {plugin.address})"
        if services.answers_at:
            line = f'address = "{services.answers_at}"'
            mend = f"in {facts.config_path}, [proxy_plugins.{NAME}]: {line}; then: {RESTART}"
        yield Finding(Level.FAIL, subject, what, why, mend)
    else:
        yield Finding(Level.OK, subject, f"answers at {plugin.address}")
    if services.mountd:
        what = f"nobody answers at {services.mountd_socket}: {services.mountd}"
        why = "images that are pulled now are downloaded whole"
        yield Finding(Level.WARN, "mount server", what, why, "systemctl start cafs-mountd (or: cafs mountd)")
    else:
        yield Finding(Level.OK, "mount server", f"answers at {services.mountd_socket}")
    if services.descriptor_store is not None:
        yield _descriptor_store(services.descriptor_store)
    if services.plain_registries:
        named = ", ".join(services.plain_registries)
        quoted = ", ".join(f'"{host}"' for host in services.plain_registries)
        what = f"containerd speaks plain HTTP to {named} (hosts.toml), CAFS does not"
        mend = f"insecure_registries = [{quoted}] in /etc/cafs/config.toml; then restart both services"
        yield Finding(Level.WARN, "registries", what, "layers from there are never lazy", mend)


def _descriptor_store(kept: int) -> Finding:
    subject = "descriptor store"
    if kept >= LEAST_DESCRIPTORS:
        return Finding(Level.OK, subject, f"systemd keeps up to {kept} descriptors of the mount server")
    why = "a restart of the mount server, with an upgrade say, ends the reads of running containers"
    mend = "deploy/install-systemd.sh; then: systemctl restart cafs-mountd while no container runs"
    return Finding(Level.WARN, subject, f"systemd keeps {kept} descriptors of the mount server", why, mend)


def _snapshotter(facts: ContainerdFacts, config: ContainerdConfig) -> Finding:
    subject, name = "CRI snapshotter", config.snapshotter
    plugin = next((plugin for plugin in config.snapshotter_plugins if plugin.name == name), None)
    if name == NAME and plugin is None:
        why = "pulls fail: no table proxy_plugins.cafs says where it listens"
        mend = f"add what '{_PRINT_CONFIG}' prints to {facts.config_path}; then: {RESTART}"
        return Finding(Level.FAIL, subject, "set to cafs", why, mend)
    if name not in _LOCAL_SNAPSHOTTERS and plugin is None:
        why = "pulls fail: no table proxy_plugins of that name says where it listens"
        return Finding(
            Level.FAIL, subject, f"set to {name}", why, _edit(facts, config, 'snapshotter = "overlayfs"')
        )
    if name != NAME and any(plugin.name == NAME for plugin in config.snapshotter_plugins):
        why = "Kubernetes downloads every image whole"
        return Finding(
            Level.WARN, subject, f"{name}, not cafs", why, _edit(facts, config, 'snapshotter = "cafs"')
        )
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
    return f"in {facts.config_path}, [{config.cri_section}]: {line}; then: {RESTART}"
