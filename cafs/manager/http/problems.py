"""Every answer that is no success is a problem document, whoever found the problem."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from cafs.errors import CafsError
from cafs.manager.refusals import InvalidError, Problem, problem_of

PROBLEM_TYPE = "application/problem+json"
INTERNAL = Problem(
    HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "a mistake in the manager: its log says more"
)
_OF_BODIES = (400, 408, 413)
_KINDS = {400: "bad_request", 404: "unknown", 405: "method"}
_IN_DOCUMENT = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "etag": {"type": "string"},
        "differs": {"type": "object"},
    },
}


def refuse(problem: Problem) -> JSONResponse:
    """The problem as an answer."""
    return JSONResponse(
        problem.document(), problem.status.value, dict(problem.headers), media_type=PROBLEM_TYPE
    )


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route: what else than success may come. 422 brings what any body may get."""
    content = {PROBLEM_TYPE: {"schema": _IN_DOCUMENT}}
    found = {*statuses, *(_OF_BODIES if 422 in statuses else ())}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(found)
    }


def install(app: FastAPI) -> None:
    """Have all errors told this way."""
    app.add_exception_handler(CafsError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _frameworks)
    app.add_exception_handler(Exception, _mistake)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CafsError)
    return refuse(problem_of(error))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """What was sent is not repeated: it may be a password."""
    assert isinstance(error, RequestValidationError)
    wrong = {
        ".".join(map(str, found["loc"])): str(found["msg"]).removeprefix("Value error, ")
        for found in error.errors()
    }
    return refuse(problem_of(InvalidError(wrong)))


async def _mistake(_request: Request, _error: Exception) -> JSONResponse:
    """The framework raises it again when this is told: whoever serves the application logs it."""
    return refuse(INTERNAL)


async def _frameworks(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = _KINDS.get(status.value, status.phrase.lower().replace(" ", "_"))
    return refuse(Problem(status, kind, str(error.detail), headers=error.headers or {}))
