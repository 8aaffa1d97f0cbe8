"""Where this machine gets its Debian packages: read from apt's own configuration, never written down here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.process import DemoError


@dataclass(frozen=True, slots=True)
class AptSource:
    """One line of ``deb``: an archive, and one of its suites with its components."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        """As it stands in a ``sources.list``."""
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


def parse_one_line(text: str) -> Iterator[AptSource]:
    """Sources of a ``*.list`` file (sources.list(5), one-line style)."""
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            yield AptSource(words[1], words[2], tuple(words[3:]))


def parse_deb822(text: str) -> Iterator[AptSource]:
    """Sources of a ``*.sources`` file (sources.list(5), deb822 style)."""
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", without_comments):
        fields = {
            match[1].lower(): match[2].split()
            for match in re.finditer(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
            continue
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield AptSource(uri, suite, tuple(fields.get("components", [])))


def machine_sources(etc: Path = Path("/etc/apt")) -> list[AptSource]:
    """Every source this machine's apt is configured with."""
    found: list[AptSource] = []
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]:
        if path.suffix == ".sources":
            found += parse_deb822(path.read_text())
        elif path.suffix == ".list" and path.exists():
            found += parse_one_line(path.read_text())
    return found


def choose_source(sources: list[AptSource], suite: str) -> AptSource:
    """The source of ``suite``, with its component ``main`` only.

    Raises:
        DemoError: this machine's apt has no such suite.
    """
    for source in sources:
        if source.suite == suite and "main" in source.components:
            return AptSource(source.uri, suite, ("main",))
    raise DemoError(f"apt on this machine has no source for the suite {suite!r} of Debian (see /etc/apt)")


def machine_codename(os_release: Path = Path("/etc/os-release")) -> str:
    """``bookworm`` on Debian 12.

    Raises:
        DemoError: not a Debian.
    """
    fields = dict(line.partition("=")[::2] for line in os_release.read_text().splitlines())
    codename = fields.get("VERSION_CODENAME", "").strip('"')
    if fields.get("ID", "").strip('"') != "debian" or not codename:
        raise DemoError(
            "the image is built with debootstrap from this machine's Debian, and this is no Debian"
        )
    return codename
