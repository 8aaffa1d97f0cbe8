"""The application: its routes, and what they find in ``request.app.state.parts``."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from sqlalchemy import text
from starlette.types import ASGIApp

from cafs import __version__
from cafs.manager.http import (
    problems,
    routes_audit,
    routes_clusters,
    routes_configuration,
    routes_hosts,
    routes_jobs,
    routes_members,
    routes_oidc,
    routes_profiles,
    routes_schedules,
    routes_sessions,
    routes_setup,
    routes_statistics,
    routes_tasks,
    routes_users,
)
from cafs.manager.http.envelope import Envelope
from cafs.manager.http.parts import Here, Parts
from cafs.manager.http.paths import API

_ROUTES = (
    routes_setup.routes,
    routes_sessions.routes,
    routes_oidc.routes,
    routes_users.routes,
    routes_clusters.routes,
    routes_members.routes,
    routes_configuration.routes,
    routes_tasks.routes,
    routes_hosts.routes,
    routes_jobs.routes,
    routes_schedules.routes,
    routes_profiles.routes,
    routes_statistics.routes,
    routes_audit.routes,
)


class Health(BaseModel):
    """It serves."""

    status: str
    version: str


open_to_all = APIRouter(tags=["health"])


@open_to_all.get("/healthz", responses=problems.declared(503))
def health(parts: Here) -> Health:
    """Whether this replica serves, and its database answers."""
    with parts.database.reading() as session:
        session.execute(text("SELECT 1"))
    return Health(status="serving", version=__version__)


def make_app(parts: Parts) -> tuple[FastAPI, ASGIApp]:
    """The application, and what is to be served: it, in its envelope.

    No page of documentation: those of FastAPI load their scripts from elsewhere.
    """
    app = FastAPI(
        title="CAFS manager",
        version=__version__,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = parts
    problems.install(app)
    app.include_router(open_to_all)
    app.include_router(routes_setup.page)
    for routes in _ROUTES:
        app.include_router(routes, prefix=API)
    return app, Envelope(app, parts.tally)
