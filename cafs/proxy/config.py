"""What a proxy is set to do, read from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from cafs.certificates.authority import Authority
from cafs.core.proxying.address import Address, parse_absolute
from cafs.core.proxying.guard import Guard, parse_guard
from cafs.core.proxying.intercept import parse_host_patterns
from cafs.core.proxying.mirror import Mirror, parse_mirrors
from cafs.core.proxying.rules import Rule, parse_rules
from cafs.core.settings import Settings
from cafs.oci.reference import DOCKER_HUB, canonical_host
from cafs.oci.registry.address import address_of, scheme_for
from cafs.proxy.interception import Interception


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Parsed and checked."""

    rules: tuple[Rule, ...] = ()
    guard: Guard = field(default_factory=Guard)
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    default_registry: str = DOCKER_HUB
    insecure_registries: tuple[str, ...] = ()
    interception: Interception | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """As the user configured.

        Raises:
            UsageError: a setting says what cannot be.
            NotFoundError: hosts are to be intercepted, and there is no authority for it.
        """
        patterns = parse_host_patterns(settings.proxy_intercept)
        return cls(
            rules=parse_rules(settings.proxy_rules),
            guard=parse_guard(settings.proxy_allow),
            mirrors=parse_mirrors(settings.proxy_mirrors),
            default_registry=settings.proxy_registry,
            insecure_registries=settings.insecure_registries,
            interception=Interception(Authority.load(settings.proxy_ca), patterns) if patterns else None,
        )

    def address_at(self, registry: str, target: str) -> Address:
        """The address of a path at a registry; in plain HTTP where CAFS speaks that to it."""
        registry = canonical_host(registry)
        scheme, _ = scheme_for(registry, self.insecure_registries)
        return parse_absolute(f"{scheme}://{address_of(registry)}{target}")
