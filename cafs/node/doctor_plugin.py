"""Judges the table by which containerd knows our snapshotter. Pure; part of ``doctor_containerd``.

Only 2.x reads more of it than type and address. Who answers there is ``doctor_containerd``'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from cafs.containerd.setup import IDMAPPED_EROFS_SINCE, NAME, REMAP_IDS
from cafs.node.containerd_config import ContainerdConfig, ProxyPlugin
from cafs.node.finding import Finding, Level
from cafs.node.machine_facts import ContainerdFacts, ServiceFacts

RESTART = "systemctl restart containerd"
_TABLE = "proxy plugin"
_USERS = "user namespaces of pods"


def diagnose_plugin(
    facts: ContainerdFacts, config: ContainerdConfig, plugin: ProxyPlugin, services: ServiceFacts
) -> Iterator[Finding]:
    """All findings about ``proxy_plugins.cafs``."""
    is_2 = config.format >= 3 if facts.version is None else facts.version.major >= 2
    wrong = list(_wrong_fields(facts, plugin, services)) if is_2 else []
    yield from wrong or [Finding(Level.OK, _TABLE, f"proxy_plugins.{NAME} is as it should be")]
    yield _users(facts, plugin) if is_2 else _users_of_1()


def _wrong_fields(facts: ContainerdFacts, plugin: ProxyPlugin, services: ServiceFacts) -> Iterator[Finding]:
    table = facts.table
    if plugin.platform not in {"", table.platform}:
        why = "containerd takes it for no snapshotter of this machine"
        mend = _edit(facts, f'platform = "{table.platform}"')
        yield Finding(Level.FAIL, _TABLE, f"its platform is {plugin.platform}", why, mend)
    if not services.has_root:
        what = f"its root {plugin.root} is not there" if plugin.root else "its root is not told"
        why = "Kubernetes does not hear how full the disk of the snapshots is"
        yield Finding(Level.WARN, _TABLE, what, why, _edit(facts, f'root = "{table.root}"', ".exports"))


def _users(facts: ContainerdFacts, plugin: ProxyPlugin) -> Finding:
    told, able = REMAP_IDS in plugin.capabilities, facts.table.maps_ids
    since = ".".join(map(str, IDMAPPED_EROFS_SINCE))
    if told and able:
        return Finding(Level.OK, _USERS, "their ids are mapped, nothing is copied")
    if told:
        what = f"containerd relies on mapped ids, which Linux before {since} has not for EROFS"
        mend = _edit(facts, f'take "{REMAP_IDS}" out of capabilities')
        return Finding(Level.FAIL, _USERS, what, "such pods do not start", mend)
    if able:
        what = "containerd is not told that their ids can be mapped"
        why = "it copies the whole image for them, which reads all of it"
        return Finding(Level.WARN, _USERS, what, why, _edit(facts, f'capabilities = ["{REMAP_IDS}"]'))
    return Finding(Level.OK, _USERS, f"the image is copied: only Linux {since} and later maps ids of EROFS")


def _users_of_1() -> Finding:
    what = "containerd 1.x copies the whole image for them, which reads all of it; 2.x need not"
    return Finding(Level.OK, _USERS, what)


def _edit(facts: ContainerdFacts, line: str, below: str = "") -> str:
    return f"in {facts.config_path}, [proxy_plugins.{NAME}{below}]: {line}; then: {RESTART}"
