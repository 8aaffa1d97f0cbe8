"""``cafs doctor``: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.cli.failure import EXIT_FAILURE
from cafs.core.settings import Settings
from cafs.errors import UsageError
from cafs.node.doctor import diagnose
from cafs.node.finding import Finding, Level
from cafs.node.machine_survey import survey
from cafs.node.service_survey import USUAL_CONFIG
from cafs.oci.reference import RegistryReference, canonical_host, parse_reference

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command()
@click.option("--containerd-config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              metavar="FILE", help=f"containerd's configuration.  [default: {USUAL_CONFIG}]")  # fmt: skip
@click.option("--registry", metavar="HOST[:PORT] | IMAGE",
              help="Ask a registry instead: reached, logged in? For an image also: readable, converted?",
              )  # fmt: skip
@click.pass_obj
def command(context: Context, containerd_config: Path | None, registry: str | None) -> None:
    """Look at this machine: kernel, FUSE, EROFS, the chunk store's disk, containerd, our services.

    Each finding that is not well says what it means and how to mend it. Exits with 1 when something that
    CAFS needs is missing.
    """
    if registry is None:
        findings = diagnose(survey(context.settings, containerd_config))
    else:
        findings = _ask_registry(registry, context.settings)
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


def _ask_registry(text: str, settings: Settings) -> list[Finding]:
    import trio  # noqa: PLC0415  the machine is judged without

    from cafs.node.registry_probe import probe_image, probe_registry  # noqa: PLC0415

    if "/" not in text.removeprefix("docker://"):
        found = parse_reference(f"{text}/any")
        if not isinstance(found, RegistryReference) or found.host != canonical_host(text):
            raise UsageError(f"{text} is no registry: write HOST, HOST:PORT, or a whole image")
        return trio.run(probe_registry, text, settings)
    reference = parse_reference(text)
    if not isinstance(reference, RegistryReference):
        raise UsageError(f"{text} lies in no registry")
    return trio.run(probe_image, reference, settings)


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
