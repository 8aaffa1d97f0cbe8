"""Finding the user's credentials: the docker configuration file and the helper programs it names.

Read anew each time, because that is how a long mount gets over credentials that expired: the user logs in
again, or the helper hands out a fresh token.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

from cafs.errors import AuthError, StorageError
from cafs.oci.registry.auth import Load
from cafs.oci.registry.challenge import Credentials
from cafs.oci.registry.docker_config import (
    MAX_HELPER_ANSWER,
    AskHelper,
    find_credentials,
    parse_docker_config,
    parse_helper_answer,
)

_HELPER_DEADLINE_S = 20.0


def docker_sources(host: str) -> Sequence[Load]:
    """The user's credentials for ``host`` as the only source."""
    return (lambda: load_credentials(host),)


async def load_credentials(host: str) -> Credentials | None:
    """The user's credentials for ``host``, or None.

    Raises:
        StorageError, IntegrityError, UsageError: the file is there, but unreadable or wrong.
        AuthError: the helper is missing or fails.
    """
    content = await trio.to_thread.run_sync(_read, _config_path())
    if content is None:
        return None
    found = find_credentials(parse_docker_config(content, str(_config_path())), host)
    return await _ask_helper(found) if isinstance(found, AskHelper) else found


def _config_path() -> Path:
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path.home() / ".docker") / "config.json"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}") from e


async def _ask_helper(helper: AskHelper) -> Credentials | None:
    try:
        with trio.fail_after(_HELPER_DEADLINE_S):
            done = await trio.run_process(
                [helper.program, "get"],
                stdin=helper.server.encode(),
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    except trio.TooSlowError as e:
        raise AuthError(f"{helper.program} did not answer within {_HELPER_DEADLINE_S:.0f} s") from e
    except OSError as e:
        raise AuthError(
            f"cannot run {helper.program}, which ~/.docker/config.json names: {e.strerror}"
        ) from e
    if done.returncode != 0:
        if b"credentials not found" in done.stdout:
            return None
        raise AuthError(f"{helper.program} failed with exit code {done.returncode}")
    if len(done.stdout) > MAX_HELPER_ANSWER:
        raise AuthError(f"{helper.program} answered with {len(done.stdout)} bytes")
    return parse_helper_answer(done.stdout, f"the answer of {helper.program}")
