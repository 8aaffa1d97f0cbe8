"""A cluster's configuration: looked at, changed, compared, and gone back to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from cafs.core.live.document import InvalidDocumentError, difference, parse_document
from cafs.manager.clusters.catalogue import get_cluster
from cafs.manager.clusters.configurations import add_version, get_version, list_versions
from cafs.manager.http.caller import needs
from cafs.manager.http.cluster_models import named
from cafs.manager.http.conditional import IfMatch, check_match, etag_of
from cafs.manager.http.models import MOST_ID, Id, Limit, Page, Sent, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.refusals import InvalidError
from cafs.manager.tables import Cluster, Configuration
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Role, Scope, Where

routes = APIRouter(prefix="/clusters/{cluster_id}/configuration", tags=["configuration"])
Reader = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ, Where.CLUSTER)]
Writer = Annotated[Caller, needs(Role.OPERATOR, Scope.CLUSTERS_WRITE, Where.CLUSTER)]
Version = Annotated[int, Path(ge=0, le=MOST_ID, description="0: the one that says nothing.")]
Note = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$", description="Why, for people.")]
_DOCUMENT = "docs/manager.md has its fields. What it does not name stays as services have it themselves."


class ConfigurationTold(Told):
    """A version of a configuration."""

    version: int
    document: dict[str, Any] = Field(description=_DOCUMENT)
    note: str
    who: str
    at: datetime
    restored: int | None = Field(description="The version that it says again.")


class ConfigurationSent(Sent):
    """What is to hold from now on, whole."""

    document: Annotated[dict[str, Any], Field(description=_DOCUMENT)]
    note: Note = ""


class RestoreSent(Sent):
    """What is to hold again."""

    version: Annotated[int, Field(ge=0, le=MOST_ID, strict=True)]
    note: Note = ""


class Differing(Told):
    """Of a field what it was and is; null: it was not there, or is not."""

    before: Any
    after: Any


@routes.get("", responses=declared(401, 403, 404, 422, 503))
def show(cluster_id: Id, _caller: Reader, parts: Here, response: Response) -> ConfigurationTold:
    """The version that holds."""
    with parts.database.reading() as session:
        cluster = get_cluster(session, cluster_id)
        found = get_version(session, cluster, cluster.configuration)
    response.headers["ETag"] = etag_of(found.version)
    return ConfigurationTold.model_validate(found)


@routes.put("", responses=declared(401, 403, 404, 409, 422, 428, 503))
def change(  # noqa: PLR0917 - FastAPI calls it, by keyword
    cluster_id: Id,
    sent: ConfigurationSent,
    caller: Writer,
    parts: Here,
    response: Response,
    if_match: IfMatch = None,
) -> ConfigurationTold:
    """Set another document. All services of the cluster have it within seconds."""
    made = _replace(parts, caller, cluster_id, if_match, document=sent.document, note=sent.note)
    response.headers["ETag"] = etag_of(made.version)
    return ConfigurationTold.model_validate(made)


@routes.post("/check", responses=declared(401, 403, 404, 422, 503))
def check(cluster_id: Id, sent: ConfigurationSent, _caller: Reader, parts: Here) -> dict[str, Differing]:
    """What a document would change, by path; nothing is changed. 422, if it cannot be."""
    with parts.database.reading() as session:
        cluster = get_cluster(session, cluster_id)
        before = get_version(session, cluster, cluster.configuration).document
    _check(sent.document, cluster)
    return _told(difference(before, sent.document))


@routes.get("/versions", responses=declared(401, 403, 404, 422, 503))
def list_all(
    cluster_id: Id,
    _caller: Reader,
    parts: Here,
    before: Annotated[int | None, Query(ge=1, le=MOST_ID, description="Older than this version.")] = None,
    limit: Limit = 100,
) -> Page[ConfigurationTold]:
    """All versions, the newest first."""
    with parts.database.reading() as session:
        get_cluster(session, cluster_id)
        found = list_versions(session, cluster_id, before, limit + 1)
    items = [ConfigurationTold.model_validate(version) for version in found[:limit]]
    return Page(items=items, next=items[-1].version if len(found) > limit else None)


@routes.get("/versions/{version}", responses=declared(401, 403, 404, 422, 503))
def show_version(cluster_id: Id, version: Version, _caller: Reader, parts: Here) -> ConfigurationTold:
    """One version."""
    with parts.database.reading() as session:
        found = get_version(session, get_cluster(session, cluster_id), version)
    return ConfigurationTold.model_validate(found)


@routes.get("/versions/{version}/changes", responses=declared(401, 403, 404, 422, 503))
def compare(
    cluster_id: Id,
    version: Version,
    _caller: Reader,
    parts: Here,
    since: Annotated[int | None, Query(ge=0, le=MOST_ID, description="By default the one before.")] = None,
) -> dict[str, Differing]:
    """What a version says otherwise than another one, by path."""
    with parts.database.reading() as session:
        cluster = get_cluster(session, cluster_id)
        after = get_version(session, cluster, version).document
        before = get_version(session, cluster, max(0, version - 1) if since is None else since).document
    return _told(difference(before, after))


@routes.post("/restore", responses=declared(401, 403, 404, 409, 422, 428, 503))
def restore(  # noqa: PLR0917 - FastAPI calls it, by keyword
    cluster_id: Id,
    sent: RestoreSent,
    caller: Writer,
    parts: Here,
    response: Response,
    if_match: IfMatch = None,
) -> ConfigurationTold:
    """Have an older version hold again, as a new one."""
    made = _replace(parts, caller, cluster_id, if_match, restored=sent.version, note=sent.note)
    response.headers["ETag"] = etag_of(made.version)
    return ConfigurationTold.model_validate(made)


def _replace(
    parts: Here,
    caller: Caller,
    cluster_id: int,
    if_match: str | None,
    *,
    note: str,
    document: dict[str, Any] | None = None,
    restored: int | None = None,
) -> Configuration:
    """A new version, unless it would say what holds already."""
    with parts.database.writing() as session:
        cluster = get_cluster(session, cluster_id, to_change=True)
        if restored is not None:
            document = get_version(session, cluster, restored).document
        assert document is not None
        _check(document, cluster)
        present = get_version(session, cluster, cluster.configuration)
        changes = difference(present.document, document)
        before = {path: change["before"] for path, change in changes.items()}
        after = {path: change["after"] for path, change in changes.items()}
        check_match(if_match, cluster.configuration, before, after)
        if not changes:
            return present
        made = add_version(session, cluster, document, who=caller.name, note=note, restored=restored)
        thing = f"{named(cluster)}, configuration {made.version}"
        write_down(session, caller, "configuration.change", thing, before=before, after=after)
    parts.changed()
    return made


def _check(document: dict[str, Any], cluster: Cluster) -> None:
    try:
        parse_document(document, cluster.kind)
    except InvalidDocumentError as e:
        raise InvalidError({f"document.{path}": why for path, why in e.wrong.items()}) from None


def _told(changes: dict[str, dict[str, Any]]) -> dict[str, Differing]:
    return {path: Differing(**change) for path, change in changes.items()}
