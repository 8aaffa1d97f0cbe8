"""Clusters: who may see them sees them, administrators make and change them."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import APIRouter, Query, Response

from cafs.manager.clusters.catalogue import (
    add_cluster,
    candidates,
    change_cluster,
    count_hosts,
    get_cluster,
    held_by,
    list_clusters,
    remove_cluster,
)
from cafs.manager.clusters.placing import Place, find_cluster, parts_of, score_of
from cafs.manager.http.caller import needs
from cafs.manager.http.cluster_models import (
    Address,
    ClusterChanges,
    ClusterTold,
    Fit,
    Kind,
    NewCluster,
    fields,
    named,
    told,
)
from cafs.manager.http.conditional import IfMatch, check_match, etag_of
from cafs.manager.http.models import Id
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Role, Scope, Where

routes = APIRouter(prefix="/clusters", tags=["clusters"])
Seer = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ, Where.SOMEWHERE)]
Reader = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ, Where.CLUSTER)]
Overseer = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ)]
Maker = Annotated[Caller, needs(Role.ADMIN, Scope.CLUSTERS_WRITE)]


@routes.get("", responses=declared(401, 403, 503))
def list_all(caller: Seer, parts: Here) -> list[ClusterTold]:
    """All clusters that one may look at."""
    with parts.database.reading() as session:
        counts = count_hosts(session)
        return [told(cluster, counts) for cluster in list_clusters(session, caller.clusters())]


@routes.post("", status_code=201, responses=declared(401, 403, 409, 422, 503))
def create(sent: NewCluster, caller: Maker, parts: Here, response: Response) -> ClusterTold:
    """Make a cluster. Hosts that it fits better than where they are move to it at once."""
    document = sent.model_dump(mode="json")
    kind, name = document.pop("kind"), document.pop("name")
    with parts.database.writing() as session:
        cluster = add_cluster(session, kind, name, document)
        write_down(session, caller, "cluster.create", named(cluster), after=fields(cluster))
    parts.changed()
    response.headers["ETag"] = etag_of(cluster.version)
    return told(cluster, {})


@routes.get("/fit", responses=declared(401, 403, 422, 503))
def fit(  # noqa: PLR0917 - FastAPI calls it, by keyword
    _caller: Overseer,
    parts: Here,
    kind: Kind,
    address: Address,
    hostname: Annotated[str, Query(max_length=255)] = "",
    idc: Annotated[str, Query(max_length=255)] = "",
    location: Annotated[str, Query(max_length=255)] = "",
) -> list[Fit]:
    """Which cluster a host would find, and why: the best first."""
    where = tuple(part for part in location.split("|") if part)
    place = Place(ipaddress.ip_address(address), hostname, idc, where)
    with parts.database.reading() as session:
        found = candidates(session).get(kind, [])
    best = find_cluster(found, place)
    fits = []
    for candidate in found:
        scored = parts_of(candidate.scopes, place)
        fits.append(
            Fit(
                cluster_id=candidate.id,
                cluster_name=candidate.name,
                score=score_of(scored),
                parts=scored._asdict(),
                chosen=candidate is best,
            )
        )
    return sorted(fits, key=lambda fit: (-fit.score, fit.cluster_id))


@routes.get("/{cluster_id}", responses=declared(401, 403, 404, 422, 503))
def show(cluster_id: Id, _caller: Reader, parts: Here, response: Response) -> ClusterTold:
    """One cluster."""
    with parts.database.reading() as session:
        cluster = get_cluster(session, cluster_id)
        counts = count_hosts(session)
    response.headers["ETag"] = etag_of(cluster.version)
    return told(cluster, counts)


@routes.patch("/{cluster_id}", responses=declared(401, 403, 404, 409, 422, 428, 503))
def change(  # noqa: PLR0917 - FastAPI calls it, by keyword
    cluster_id: Id,
    sent: ClusterChanges,
    caller: Maker,
    parts: Here,
    response: Response,
    if_match: IfMatch = None,
) -> ClusterTold:
    """Change a cluster; what is left out stays. Hosts find their cluster anew at once."""
    changes = {name: getattr(sent, name) for name in sent.model_fields_set}
    if "scopes" in changes:
        changes["scopes"] = sent.scopes.model_dump()
    with parts.database.writing() as session:
        cluster = get_cluster(session, cluster_id, to_change=True)
        before = fields(cluster)
        check_match(if_match, cluster.version, before, changes)
        change_cluster(session, cluster, changes)
        write_down(session, caller, "cluster.change", named(cluster), before=before, after=fields(cluster))
        counts = count_hosts(session)
    parts.changed()
    response.headers["ETag"] = etag_of(cluster.version)
    return told(cluster, counts)


@routes.delete("/{cluster_id}", status_code=204, responses=declared(401, 403, 404, 409, 422, 428, 503))
def delete(cluster_id: Id, caller: Maker, parts: Here, if_match: IfMatch = None) -> None:
    """Remove a cluster, with its configurations, jobs, schedules and roles. Its hosts find others."""
    with parts.database.writing() as session:
        cluster = get_cluster(session, cluster_id, to_change=True)
        check_match(if_match, cluster.version, fields(cluster), {})
        before = fields(cluster) | held_by(session, cluster)
        remove_cluster(session, cluster)
        write_down(session, caller, "cluster.delete", named(cluster), before=before)
    parts.changed()
