"""Fixtures that all tests share, and the watch over logs, processes and mounts."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.faults import FaultyRegistry
from tests.support.leaks import MARK, leftovers, look_around
from tests.support.logs import ExpectedLogs, LogWatch
from tests.support.netns import Link, limited_link
from tests.support.own_mounts import keep_mounts_to_ourselves
from tests.support.registry import Registry, start_registry
from tests.support.tokens import TokenServer

# Two cores that do much else: how long one example takes says nothing. The same examples each time, so that a
# change is judged by what it changed; --hypothesis-profile=search looks for new ones.
settings.register_profile("cafs", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("search", settings.get_profile("cafs"), derandomize=False)
settings.load_profile("cafs")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's own configuration, credentials and cache out of every test."""
    if hasattr(config, "workerinput"):
        config.option.basetemp = None  # xdist's is outside this worker's home, where leaks are looked for
        with suppress(PermissionError):
            keep_mounts_to_ourselves()
    home = tempfile.mkdtemp(prefix="cafs-", dir="/tmp")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in [name for name in os.environ if name.startswith(("XDG_", "DOCKER_"))]:
        del os.environ[name]
    for name in [name for name in os.environ if name.startswith("CAFS_") and name != "CAFS_CACHE"]:
        del os.environ[name]
    os.environ.update(
        {
            MARK: uuid.uuid4().hex,
            "HOME": home,
            "TMPDIR": home,
            "CAFS_CACHE_DIR": f"{home}/cache",
            "CAFS_RUN_DIR": f"{home}/run",
        }
    )
    tempfile.tempdir = home


@pytest.fixture
def expected_logs() -> ExpectedLogs:
    """Declare here the warnings that a test provokes."""
    return ExpectedLogs()


@pytest.fixture(autouse=True)
def _no_undeclared_warnings(expected_logs: ExpectedLogs) -> Iterator[None]:
    watch = LogWatch()
    logging.getLogger().addHandler(watch)
    yield
    logging.getLogger().removeHandler(watch)
    if complaint := watch.complaint(expected_logs):
        pytest.fail(complaint, pytrace=False)


@pytest.fixture(scope="session")
def long_lived_processes() -> set[int]:
    """Fixtures of the whole session add the pids that they will end themselves."""
    return set()


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    if "/tests/pure/" in str(request.path):
        yield  # pure tests start nothing, and there are thousands
        return
    long_lived: set[int] = request.getfixturevalue("long_lived_processes")
    before = look_around()
    yield
    if told := leftovers(before, long_lived):
        pytest.fail("left behind: " + "; ".join(told), pytrace=False)


@pytest.fixture(scope="session")
def docker_registry(
    tmp_path_factory: pytest.TempPathFactory, long_lived_processes: set[int]
) -> Iterator[Registry]:
    """A registry for everybody, without authentication. Use a repository name of your own."""
    yield from _served(start_registry(tmp_path_factory.mktemp("registry")), long_lived_processes)


@pytest.fixture(scope="session")
def basic_registry(
    tmp_path_factory: pytest.TempPathFactory, long_lived_processes: set[int]
) -> Iterator[Registry]:
    """Wants ``tests.support.registry.USER`` and ``PASSWORD`` as basic authentication."""
    registry = start_registry(tmp_path_factory.mktemp("basic-registry"), basic_auth=True)
    yield from _served(registry, long_lived_processes)


@pytest.fixture(scope="session")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    """Hands out the tokens that ``token_registry`` wants, to USER with PASSWORD."""
    server = TokenServer(tmp_path_factory.mktemp("tokens"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def token_registry(
    tmp_path_factory: pytest.TempPathFactory, long_lived_processes: set[int], token_server: TokenServer
) -> Iterator[Registry]:
    """Wants a token of ``token_server``."""
    registry = start_registry(tmp_path_factory.mktemp("token-registry"), tokens=token_server.service)
    yield from _served(registry, long_lived_processes)


def _served(registry: Registry, long_lived_processes: set[int]) -> Iterator[Registry]:
    long_lived_processes.add(registry.pid)
    yield registry
    registry.stop()


@pytest.fixture
def faulty_registry(docker_registry: Registry) -> Iterator[FaultyRegistry]:
    """``docker_registry`` behind a proxy that misbehaves to order."""
    with FaultyRegistry(docker_registry.host) as faulty:
        yield faulty


@pytest.fixture
def faulty_in_front(request: pytest.FixtureRequest) -> Iterator[Callable[[Registry], FaultyRegistry]]:
    """Puts such a proxy in front of any registry."""
    opened: list[FaultyRegistry] = []

    def put(registry: Registry) -> FaultyRegistry:
        opened.append(FaultyRegistry(registry.host))
        return opened[-1]

    yield put
    for faulty in opened:
        faulty.stop()


@pytest.fixture
def slow_link() -> Iterator[Link]:
    """A network namespace behind 200 Mbit/s."""
    with limited_link(200) as link:
        yield link


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """A temporary folder with a short name: paths of unix sockets may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="") as folder:
        yield Path(folder)
