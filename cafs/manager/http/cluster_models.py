"""Clusters, as they are sent and told."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AfterValidator, Field, StrictBool

from cafs.manager.http.models import Label, Sent, Told
from cafs.manager.tables import Cluster

Kind = Literal["scheduler", "seed"]
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


Cidr = Annotated[str, Field(max_length=64, examples=["10.0.0.0/8"]), AfterValidator(_network)]
Address = Annotated[str, Query(max_length=64, examples=["10.1.2.3"]), AfterValidator(_address)]
Pattern = Annotated[str, Field(min_length=1, max_length=255, pattern=_PRINTABLE, examples=["gpu-*"])]
Idc = Annotated[str, Field(min_length=1, max_length=255, pattern=_PRINTABLE)]
Location = Annotated[
    str,
    Field(max_length=255, pattern=r"^[^|\x00-\x1f\x7f-\x9f]+(\|[^|\x00-\x1f\x7f-\x9f]+){0,4}$",
          examples=["europe|zone3"]),
]  # fmt: skip
_MOST = 256


class ScopesSent(Sent):
    """Whom a cluster wants; docs/manager.md has the score."""

    cidrs: list[Cidr] = Field(default_factory=list, max_length=_MOST)
    hostnames: list[Pattern] = Field(
        default_factory=list, max_length=_MOST, description="Patterns of the shell: * ? [abc]."
    )
    idcs: list[Idc] = Field(default_factory=list, max_length=_MOST)
    locations: list[Location] = Field(
        default_factory=list, max_length=_MOST, description="Widest part first, divided by |."
    )


class ScopesTold(Told):
    """The same."""

    cidrs: list[str]
    hostnames: list[str]
    idcs: list[str]
    locations: list[str]


Description = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
Default = Annotated[StrictBool, Field(description="Takes whom nobody else wants; one of a kind at most.")]


class NewCluster(Sent):
    """A cluster that is to be made."""

    kind: Annotated[Kind, Field(description="`scheduler`: of schedulers and peers; `seed`: of seeds.")]
    name: Label
    description: Description = ""
    scopes: ScopesSent = ScopesSent()
    is_default: Default = False


class ClusterChanges(Sent):
    """What is left out stays."""

    name: Label = ""
    description: Description = ""
    scopes: ScopesSent = ScopesSent()
    is_default: Default = False


class ClusterTold(Told):
    """A cluster."""

    id: int
    kind: Kind
    name: str
    description: str
    scopes: ScopesTold
    is_default: bool
    created_at: datetime
    configuration: int = Field(description="The version of its configuration that holds; 0: none.")
    active_hosts: int
    inactive_hosts: int


class Fit(Told):
    """How well a cluster fits a host."""

    cluster_id: int
    cluster_name: str
    score: float
    parts: dict[str, float] = Field(description="Each 0 to 1, before they are weighted.")
    chosen: bool


def told(cluster: Cluster, counts: dict[tuple[int | None, bool], int]) -> ClusterTold:
    """As others may see it."""
    return ClusterTold(
        **fields(cluster),
        id=cluster.id,
        kind=cluster.kind,  # type: ignore[arg-type]  # one of the two: checked when it was made
        created_at=cluster.created_at,
        configuration=cluster.configuration,
        active_hosts=counts.get((cluster.id, True), 0),
        inactive_hosts=counts.get((cluster.id, False), 0),
    )


def fields(cluster: Cluster) -> dict[str, Any]:
    """What may be changed of it."""
    return {
        "name": cluster.name,
        "description": cluster.description,
        "scopes": cluster.scopes,
        "is_default": cluster.is_default,
    }


def named(cluster: Cluster) -> str:
    """For the audit."""
    return f"cluster {cluster.id} {cluster.name}"
