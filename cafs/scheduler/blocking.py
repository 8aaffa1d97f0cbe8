"""Downloads that the cluster's configuration blocks are refused by the core as those of priority 0. Pure."""

from __future__ import annotations

from dataclasses import replace

from cafs.core.live.wishes import WishRules
from cafs.core.scheduling.events import Event, PeerRegister


def judged(event: Event, rules: WishRules) -> Event:
    """The event as the core is to see it. An exchange of an image's chunks is no download."""
    if not rules.block or not isinstance(event, PeerRegister) or event.chunks_only:
        return event
    spec = event.spec
    why = rules.why_blocked(url=spec.url, application=spec.application, tag=spec.tag, priority=spec.priority)
    return replace(event, spec=replace(spec, priority=0)) if why else event
