"""The application: its routes, and what they find in ``request.app.state.parts``."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import text
from starlette.types import ASGIApp

from cafs import __version__
from cafs.manager.database import Database
from cafs.manager.http import problems
from cafs.manager.http.envelope import Envelope
from cafs.manager.tally import Tally

API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What requests are answered from."""

    database: Database
    tally: Tally


class Health(BaseModel):
    """It serves."""

    status: str
    version: str


open_to_all = APIRouter(tags=["health"])


@open_to_all.get("/healthz", responses=problems.declared(503))
def health(request: Request) -> Health:
    """Whether this replica serves, and its database answers."""
    parts: Parts = request.app.state.parts
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
    )
    app.state.parts = parts
    problems.install(app)
    app.include_router(open_to_all)
    return app, Envelope(app, parts.tally)
