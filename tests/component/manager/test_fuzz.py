"""REST is asked everything that its own OpenAPI document allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cafs.manager.http.paths import API
from tests.support.manager import Manager, options_for, running_manager
from tests.support.postgres import Postgres

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
ENDS_ALL = "/api/v1/sessions/current"
"""Its DELETE ends the session that everything is asked with."""


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[tuple[Manager, str]]:
    options = options_for(tmp_path_factory.mktemp("fuzz"), postgres.url(postgres.new_database()))
    with running_manager(options) as manager:
        yield manager, manager.administrator()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_what_the_document_says(fuzzed: tuple[Manager, str], mode: GenerationMode) -> None:
    """With the rights of an administrator, so that what is asked is really done."""
    manager, token = fuzzed
    schema = schemathesis.openapi.from_url(f"{manager.client.base_url}{API}/openapi.json")
    operations = [found.ok() for found in schema.exclude(path=ENDS_ALL).get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=8,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(headers={"Authorization": f"Bearer {token}"})
            case.validate_response(answer, checks=list(CHECKS))

        ask()


def _can_be_wrong(operation: Any) -> bool:
    """It takes something."""
    return bool(list(operation.iter_parameters()) or operation.body)
