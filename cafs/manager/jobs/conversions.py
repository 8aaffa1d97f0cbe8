"""Jobs that a replica does itself: ``cafs convert`` as a process of its own, one for each ``run``.

What is to be done is claimed in the database (SKIP LOCKED), by the replica's id. As long as a replica's row
is there, nobody else takes what it has claimed; when it was killed, its row goes after some seconds, and
another one, or itself after its restart, begins anew. What it has claimed and is not at, as the database was
away when it had done it, it claims again. A conversion that two did is the same as one.

While the process runs it is looked whether it is still wanted: a job that was cancelled, is too late or was
taken by another replica has it ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import and_, or_, select

from cafs.errors import CafsError
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.jobs import ends_with_parent
from cafs.manager.jobs.ledger import note_jobs, write_report
from cafs.manager.jobs.states import CONVERT, JobState, PartState, Progress, Report
from cafs.manager.tables import Job, JobTarget, Replica

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_END_S = 10.0
_SAID_BYTES = 1 << 20
_WHY_LETTERS = 900


@dataclass(frozen=True, slots=True)
class Converter:
    """How images are converted here."""

    command: tuple[str, ...] = ()
    """What ``SOURCE`` and options follow."""
    at_once: int = 0


@dataclass(frozen=True, slots=True)
class _Claim:
    job_id: int
    host_id: str
    attempt: int
    spec: Mapping[str, Any]


class Conversions:
    """See the module."""

    def __init__(
        self, database: Database, replica_id: str, converter: Converter, on_ended: Callable[[], None]
    ) -> None:
        """``on_ended``: called after one was written down."""
        self._database = database
        self._replica_id = replica_id
        self._converter = converter
        self._on_ended = on_ended
        self._at: set[int] = set()
        """Jobs that are being done."""
        self._claiming = asyncio.Lock()

    async def run(self) -> None:
        """Convert one after the other, until cancelled. As often at once as conversions may be."""
        while True:
            try:
                if await self._convert_next():
                    continue
            except CafsError as e:
                log.debug("nothing is converted: %s", e)
            except Exception:  # one image must not end the conversion of others
                log.exception("a mistake in a conversion")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _convert_next(self) -> bool:
        """Whether there was something to be converted."""
        async with self._claiming:  # or another one here would take it before it is known to be done
            claim = await in_thread(self._claim)
            if claim is None:
                return False
            self._at.add(claim.job_id)
        try:
            await self._convert(claim)
        finally:
            self._at.remove(claim.job_id)
        return True

    def _claim(self) -> _Claim | None:
        unattended = and_(JobTarget.worker == self._replica_id, JobTarget.job_id.not_in(self._at))
        query = (
            select(JobTarget, Job)
            .join(Job, Job.id == JobTarget.job_id)
            .where(Job.kind == CONVERT, Job.state == JobState.RUNNING, JobTarget.state == PartState.TOLD)
            .where(or_(JobTarget.worker.is_(None), JobTarget.worker.not_in(select(Replica.id)), unattended))
            .order_by(JobTarget.job_id)
            .limit(1)
        )
        with self._database.reading() as session:
            if session.execute(query).first() is None:
                return None
        with self._database.writing() as session:
            found = session.execute(query.with_for_update(of=JobTarget, skip_locked=True)).first()
            if found is None:
                return None
            target, job = found
            target.worker = self._replica_id
            return _Claim(job.id, target.host_id, target.attempt, job.spec)

    async def _convert(self, claim: _Claim) -> None:
        log.info("job %d: converting %s", claim.job_id, claim.spec["image"])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            ends_with_parent.__name__,
            str(os.getpid()),
            *self._converter.command,
            *_arguments(claim.spec),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        said = asyncio.create_task(_outcome(process, claim.attempt))
        try:
            while not said.done():
                await asyncio.wait([said], timeout=_LOOK_EVERY_S)
                if not said.done() and not await self._is_wanted(claim):
                    log.info("job %d: its conversion is wanted no more", claim.job_id)
                    return
            report = said.result()
            await in_thread(partial(self._write, claim, report))
            self._on_ended()
        finally:
            await _end(process)
            said.cancel()
            with suppress(asyncio.CancelledError):
                await said

    async def _is_wanted(self, claim: _Claim) -> bool:
        try:
            return await in_thread(partial(self._is_mine, claim))
        except CafsError:
            return True  # nobody knows better just now

    def _is_mine(self, claim: _Claim) -> bool:
        with self._database.reading() as session:
            target = session.get(JobTarget, (claim.job_id, claim.host_id))
            return target is not None and self._has(target, claim)

    def _has(self, target: JobTarget, claim: _Claim) -> bool:
        told = (target.state, target.attempt, target.worker)
        return told == (PartState.TOLD, claim.attempt, self._replica_id)

    def _write(self, claim: _Claim, report: Report) -> None:
        with self._database.writing() as session:
            job = session.get(Job, claim.job_id, with_for_update=True)
            target = session.get(JobTarget, (claim.job_id, claim.host_id))
            if job is not None and target is not None and self._has(target, claim):
                write_report(session, target, report, job.retries)
                note_jobs(session)


def _arguments(spec: Mapping[str, Any]) -> list[str]:
    options = ["--json", "--quiet"]
    if spec["platform"]:
        options.append(f"--platform={spec['platform']}")
    if spec["bound"]:
        options.append(f"--image={spec['bound']}")
    options += [f"--chunk-dict={image}" for image in spec["dictionaries"]]
    return [*options, "--", spec["image"], *([spec["target"]] if spec["target"] else [])]


async def _outcome(process: Process, attempt: int) -> Report:
    """What it comes to, once it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = await asyncio.gather(_read(process.stdout), _read(process.stderr))
    code = await process.wait()
    if code == 0:
        return Report(attempt=attempt, progress=Progress.DONE, result=_result(out))
    return Report(attempt=attempt, progress=Progress.FAILED, why=_why(err, code))


async def _read(stream: asyncio.StreamReader) -> bytes:
    """The end of what it says."""
    said = b""
    while more := await stream.read(1 << 16):
        said = (said + more)[-_SAID_BYTES:]
    return said


def _result(out: bytes) -> dict[str, Any]:
    """Which artifacts were made, of its document."""
    kept = ("image", "artifact", "converted_layers", "new_image", "new_manifest")
    try:
        return {
            "images": [
                {name: image[name] for name in kept if name in image} for image in json.loads(out)[:64]
            ]
        }
    except (ValueError, TypeError, KeyError):
        return {}


def _why(err: bytes, code: int) -> str:
    """Its last line, which is the error's."""
    line = next(iter(reversed(err.decode(errors="replace").splitlines())), "")
    try:
        line = str(json.loads(line)["error"])
    except (ValueError, TypeError, KeyError):
        line = line or f"it ended with {code}"
    return "".join(letter if letter.isprintable() else " " for letter in line)[:_WHY_LETTERS]


async def _end(process: Process) -> None:
    """In order, and if that takes too long, at once; all that it began."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
                return
