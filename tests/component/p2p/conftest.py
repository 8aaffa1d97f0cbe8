"""Fixtures of tests with swarms in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.support.proxying import Origin, serve_origin

WITHIN_S = 90


@pytest.fixture
async def origin(request: pytest.FixtureRequest) -> AsyncIterator[Origin]:
    """It has the module's BODY as ``/f``."""
    async with serve_origin() as served:
        served.page("/f", request.module.BODY, etag='"1"', content_type="text/x-test")
        yield served


@pytest.fixture
async def bounded() -> AsyncIterator[None]:
    """The test ends in time, or is told where it hangs."""
    with trio.fail_after(WITHIN_S):
        yield
