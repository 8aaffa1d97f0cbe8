"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd
from tests.support.nginx import Served, nginx
from tests.support.peers import Swarm, swarm
from tests.support.user import QUICK, User


@pytest.fixture
def user(short_tmp_path: Path) -> Iterator[User]:
    """A user whom a failing registry does not keep waiting."""
    user = User(short_tmp_path, QUICK)
    yield user
    user.clean_up()


@pytest.fixture
def containerd(short_tmp_path: Path) -> Iterator[Containerd]:
    """A containerd of the test's own, with overlayfs and without CRI."""
    containerd = Containerd(short_tmp_path / "c").start()
    yield containerd
    containerd.clean_up()


@pytest.fixture
def hosts(short_tmp_path: Path) -> Iterator[Swarm]:
    """A swarm of real processes, with nobody in it yet."""
    with swarm(short_tmp_path) as made:
        yield made


@pytest.fixture
def origin(short_tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    """nginx that has the module's BODY as ``/f.bin``."""
    (short_tmp_path / "www").mkdir()
    (short_tmp_path / "www/f.bin").write_bytes(request.module.BODY)
    with nginx(short_tmp_path) as served:
        yield served
