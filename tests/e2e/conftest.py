"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.user import QUICK, User


@pytest.fixture
def user(short_tmp_path: Path) -> Iterator[User]:
    """A user whom a failing registry does not keep waiting."""
    user = User(short_tmp_path, QUICK)
    yield user
    user.clean_up()
