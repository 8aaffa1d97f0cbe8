"""Starts programs: run to the end, or kept until a context ends. Each is ended by its own pid."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ENDING_S = 10.0
"""How long a program may take to end after SIGTERM before it is killed."""


class DemoError(Exception):
    """Something the demo needs did not work. The message is for the user, in one line."""


def run(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout_s: float = 600
) -> str:
    """Run ``command`` to its end and return what it printed.

    Raises:
        DemoError: it is not installed, failed or took too long; with the last of what it said.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, env=env, timeout=timeout_s, capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError as e:
        raise DemoError(f"{words[0]} is not installed (see deploy/debian-packages.txt)") from e
    except subprocess.TimeoutExpired as e:
        raise DemoError(f"{' '.join(words)} did not end within {timeout_s:.0f} s") from e
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        last = " / ".join(said[-3:]) or "it said nothing"
        raise DemoError(f"{' '.join(words)} failed with exit code {done.returncode}: {last}")
    return done.stdout.decode(errors="replace")


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep ``command`` running while the context lasts; what it says goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
