"""What REST answers to requests that cannot be, and to mistakes of its own: always a problem document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.logs import ExpectedLogs
from tests.support.manager import Manager, options_for, running_manager
from tests.support.postgres import Postgres

JSON = {"Content-Type": "application/json"}
MANY = b"{" + b",".join(b'"k%d":0' % number for number in range(90_000)) + b"}"


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


@pytest.mark.parametrize("body", [MANY, b'{"' + b"x" * 900_000 + b'": 1}'])
def test_an_answer_is_never_larger_than_what_was_sent(nonsense_at: Manager, body: bytes) -> None:
    answer = nonsense_at.ask("POST", "/api/v1/sessions", content=body, headers=JSON)
    assert problem(answer) == (422, "invalid")
    assert len(answer.content) < 64 << 10


@pytest.mark.parametrize(
    ("document", "field", "told"),
    [
        (b'{"\\ud800": 1}', "document.?", 1),
        (b'{"peer": {"\\udfff": 1}}', "document.peer.?", 1),
        (MANY, "document.k0", 100),
    ],
)
def test_fields_that_nobody_knows_are_told_as_far_as_they_can_be(
    tmp_path: Path, document: bytes, field: str, told: int
) -> None:
    with running_manager(options_for(tmp_path)) as manager:
        admin = manager.administrator()
        path, headers = "/clusters/1/configuration", {**JSON, "If-Match": "*"}
        answer = manager.ask("PUT", path, admin, content=b'{"document":' + document + b"}", headers=headers)
        assert problem(answer) == (422, "invalid")
        errors = answer.json()["errors"]
        assert (errors[0]["field"], len(errors)) == (field, told)
        assert manager.call("GET", path, admin)["version"] == 0


def test_the_form_has_no_more_fields_than_it_shows(nonsense_at: Manager) -> None:
    answer = nonsense_at.ask("POST", "/setup", data={f"f{number}": "x" for number in range(9)})
    assert answer.status_code == 422
    assert "no more than 8 fields" in answer.text


def test_a_mistake_of_ours_is_a_problem_too(
    tmp_path: Path, postgres: Postgres, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("a mistake at GET /api/v1/audit")
    database = postgres.new_database()
    with running_manager(options_for(tmp_path, postgres.url(database))) as manager:
        admin = manager.administrator()
        postgres.tell(database, "DROP TABLE change")
        answer = manager.ask("GET", "/audit", admin)
        assert problem(answer) == (500, "internal")
        assert answer.headers["x-content-type-options"] == "nosniff"
