"""A cluster's live configuration: a JSON document, what it means, and what is wrong with one. Pure.

The manager checks a document with this before it keeps it, and services before they obey it.
docs/manager.md has the fields. What a document does not name stays as each service's own configuration
says.

| section | of which clusters | obeyed by |
|---|---|---|
| ``peer`` | both | peers, seeds: the limits of ``core.swarm.peer_limits`` |
| ``scheduler`` | scheduler | schedulers: ``SCHEDULER`` below |
| ``profiles`` | scheduler | peers: ``learn``, whether start profiles are learned and used |
| ``proxy`` | scheduler | proxies: ``rules``, as in the setting ``proxy_rules``, before their own |
| ``block``, ``applications`` | both | peers, seeds; ``block`` also schedulers |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from cafs.core.live.expressions import Expressions
from cafs.core.live.fields import Wrong
from cafs.core.live.wishes import Blocked, WishRules
from cafs.core.proxying.rules import Action, Rule
from cafs.core.scheduling.limits import Limits
from cafs.core.swarm.peer_limits import LARGEST, PeerLimits
from cafs.core.swarm.priorities import HIGHEST
from cafs.errors import UsageError

DOCUMENT_BYTES = 256 << 10
_MOST_RULES = 1000
_TEXT, _EXPRESSION = 255, 1000


@dataclass(frozen=True, slots=True)
class Field:
    """One of ``scheduler``'s."""

    name: str
    limit: str
    """Of ``core.scheduling.limits.Limits``."""
    least: float
    most: float
    whole: bool = True


SCHEDULER = (
    Field("parents", "parents_per_peer", 4, 256),
    Field("sample", "sample", 4, 4096),
    Field("children_per_host", "children_per_member", 1, 65_536),
    Field("source_peers", "source_peers", 1, 1024),
    Field("seed_patience_s", "seed_patience_s", 0.1, 600, whole=False),
    Field("task_idle_s", "task_idle_s", 60, 1e9, whole=False),
    Field("shun_s", "shun_corrupt_s", 1, 1e9, whole=False),
)


class InvalidDocumentError(UsageError):
    """A document that cannot be: ``wrong`` says why, by path."""

    def __init__(self, wrong: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{path} {why}" for path, why in wrong.items()))
        self.wrong = wrong


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """A document that was checked."""

    peer: Mapping[str, int] = field(default_factory=dict)
    """Of ``PeerLimits``, by name."""
    scheduler: Mapping[str, float] = field(default_factory=dict)
    """Of ``Limits``, by name."""
    wishes: WishRules = field(default_factory=WishRules)
    proxy_rules: tuple[Rule, ...] = ()
    learns: bool = True
    """Nodes report starts, and prefetch by what was learned of them."""

    def peer_limits(self, own: PeerLimits) -> PeerLimits:
        """A peer's, on top of what its own configuration says."""
        return own.changed(self.peer)

    def scheduler_limits(self, own: Limits) -> Limits:
        """A scheduler's, in the same way; it looks at no fewer hosts than it offers."""
        changes: dict[str, Any] = dict(self.scheduler)
        limits = replace(own, **changes)
        return replace(limits, sample=max(limits.sample, limits.parents_per_peer))


def parse_document(document: Any, kind: str) -> LiveConfig:
    """Check one.

    Args:
        document: As it came out of JSON.
        kind: Of its cluster.

    Raises:
        InvalidDocumentError: it cannot be; with all that is wrong.
    """
    wrong = Wrong()
    expressions = Expressions(wrong)
    known: dict[str, Any] = {
        "peer": {}, "scheduler": {}, "proxy": {}, "profiles": {}, "block": [], "applications": []
    }  # fmt: skip
    if kind == "seed":
        del known["scheduler"], known["proxy"], known["profiles"]
    told = known | wrong.table("", document, known)
    config = LiveConfig(
        peer=_peer(told["peer"], wrong),
        scheduler=_scheduler(told.get("scheduler", {}), wrong),
        wishes=WishRules(
            _block(told["block"], wrong, expressions), _applications(told["applications"], wrong)
        ),
        proxy_rules=_proxy(told.get("proxy", {}), wrong, expressions),
        learns=_learns(told.get("profiles", {}), wrong),
    )
    if not wrong.found and len(json.dumps(document)) > DOCUMENT_BYTES:
        wrong.note("document", f"is larger than {DOCUMENT_BYTES >> 10} KiB")
    if wrong.found:
        raise InvalidDocumentError(wrong.found)
    return config


def _peer(told: Any, wrong: Wrong) -> dict[str, int]:
    least = {limit.name: limit.metadata.get("least", 0) for limit in fields(PeerLimits)}
    found = {}
    for name, value in wrong.table("peer", told, least).items():
        number = wrong.number(f"peer.{name}", value, least[name], LARGEST)
        if number is not None:
            found[name] = int(number)
    return found


def _scheduler(told: Any, wrong: Wrong) -> dict[str, float]:
    known = {field.name: field for field in SCHEDULER}
    found = {}
    for name, value in wrong.table("scheduler", told, known).items():
        spec = known[name]
        number = wrong.number(f"scheduler.{name}", value, spec.least, spec.most, whole=spec.whole)
        if number is not None:
            found[spec.limit] = number
    if found.get("sample", 4096) < found.get("parents_per_peer", 0):
        wrong.note(
            "scheduler.sample", "must not be less than scheduler.parents: these are chosen out of them"
        )
    return found


def _learns(told: Any, wrong: Wrong) -> bool:
    given = wrong.table("profiles", told, {"learn": True})
    learn = given.get("learn", True)
    if type(learn) is not bool:
        wrong.note("profiles.learn", "must be true or false")
    return learn is True


def _proxy(told: Any, wrong: Wrong, expressions: Expressions) -> tuple[Rule, ...]:
    given = wrong.table("proxy", told, {"rules": []})
    rules = []
    for number, row in enumerate(wrong.rows("proxy.rules", given.get("rules", []), _MOST_RULES)):
        path = f"proxy.rules[{number}]"
        action, _, expression = wrong.text(path, row, _EXPRESSION).partition(" ")
        if action not in set(Action) or not expression.strip():
            wrong.note(path, f"must be ACTION REGEX, where ACTION is one of {', '.join(Action)}")
        elif (pattern := expressions.compiled(path, expression.strip())) is not None:
            rules.append(Rule(Action(action), pattern))
    return tuple(rules)


def _block(told: Any, wrong: Wrong, expressions: Expressions) -> tuple[Blocked, ...]:
    known = dict.fromkeys(("application", "tag", "priority", "url"))
    lines = []
    for number, row in enumerate(wrong.rows("block", told, _MOST_RULES)):
        path = f"block[{number}]"
        given = wrong.table(path, row, known)
        if not given:
            wrong.note(path, "must say at least one of application, tag, priority, url")
        texts = {
            name: wrong.text(f"{path}.{name}", given[name], _TEXT)
            for name in ("application", "tag")
            if name in given
        }
        priority = None
        if "priority" in given:
            priority = wrong.number(f"{path}.priority", given["priority"], 0, HIGHEST)
        url, search = None, None
        if "url" in given and (url := wrong.text(f"{path}.url", given["url"], _EXPRESSION)):
            pattern = expressions.compiled(f"{path}.url", url)
            search = pattern.search if pattern is not None else None
        lines.append(
            Blocked(
                application=texts.get("application"),
                tag=texts.get("tag"),
                priority=None if priority is None else int(priority),
                url=url,
                search=search,
            )
        )
    return tuple(lines)


def _applications(told: Any, wrong: Wrong) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, row in enumerate(wrong.rows("applications", told, _MOST_RULES)):
        path = f"applications[{number}]"
        given = wrong.table(path, row, dict.fromkeys(("name", "priority")))
        name = wrong.text(f"{path}.name", given.get("name"), _TEXT)
        priority = wrong.number(f"{path}.priority", given.get("priority"), 0, HIGHEST)
        if name in found:
            wrong.note(f"{path}.name", "is there twice")
        if name and priority is not None:
            found[name] = int(priority)
    return found


def difference(before: Any, after: Any, path: str = "") -> dict[str, dict[str, Any]]:
    """What two documents say differently: of each path what it was and is; None: it is not there.

    Lists are compared as wholes: their lines have no names.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        found: dict[str, dict[str, Any]] = {}
        for name in sorted({*before, *after}):
            where = f"{path}.{name}" if path else name
            found |= difference(before.get(name), after.get(name), where)
        return found
    if before == after:
        return {}
    if isinstance(before, dict) != isinstance(after, dict) and None in (before, after):
        return difference(before or {}, after or {}, path)
    return {path: {"before": before, "after": after}}
