"""``cafs doctor``: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from cafs.cli.context import Context
from cafs.cli.failure import EXIT_FAILURE
from cafs.node.doctor import diagnose
from cafs.node.finding import Finding, Level
from cafs.node.machine_survey import survey

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command()
@click.pass_obj
def command(context: Context) -> None:
    """Look at this machine: kernel, FUSE, EROFS, the chunk store's disk, containerd.

    Each finding that is not well says what it means and how to mend it. Exits with 1 when something that
    CAFS needs is missing.
    """
    findings = diagnose(survey(context.settings))
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    document = {
        "findings": [{**asdict(finding), "level": finding.level.value} for finding in findings],
        **{level.value: count for level, count in counts.items()},
    }
    lines = [line for finding in findings for line in _lines(finding)]
    summary = "All is well." if counts[Level.OK] == len(findings) else _summary(counts)
    context.result(document, "\n".join([*lines, "", summary]))
    if counts[Level.FAIL]:
        click.get_current_context().exit(EXIT_FAILURE)


def _lines(finding: Finding) -> list[str]:
    mark = f"{finding.level.value:4}"
    if sys.stdout.isatty():
        mark = click.style(mark, fg=_COLOURS[finding.level], bold=finding.level is not Level.OK)
    lines = [f"{mark}  {finding.subject:17}  {finding.what}"]
    indent = " " * 25
    if finding.why:
        lines.append(f"{indent}{finding.why}")
    if finding.mend:
        lines.append(f"{indent}mend: {finding.mend}")
    return lines


def _summary(counts: dict[Level, int]) -> str:
    words = []
    if counts[Level.FAIL]:
        words.append(f"{counts[Level.FAIL]} needed and missing")
    if counts[Level.WARN]:
        words.append(f"{counts[Level.WARN]} could be better")
    return ", ".join(words).capitalize() + "."
