"""Reading apt's configuration, in both of its styles."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.debian import (
    AptSource,
    choose_source,
    machine_codename,
    machine_sources,
    parse_deb822,
    parse_one_line,
)
from demo.process import DemoError

DEB822 = """\
Types: deb deb-src
# a comment within a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs:
 http://security.example/debian
Suites: bookworm-security
Components: main
"""


def test_deb822_gives_each_suite_of_each_enabled_stanza() -> None:
    found = [(source.uri, source.suite) for source in parse_deb822(DEB822)]
    assert found == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://security.example/debian", "bookworm-security"),
    ]


def test_one_line_style_knows_options_and_comments() -> None:
    text = "# deb http://no a main\ndeb [arch=amd64 trusted=yes] http://m.example stable main contrib # x"
    assert list(parse_one_line(text)) == [AptSource("http://m.example", "stable", ("main", "contrib"))]


def test_both_styles_are_found_below_etc_apt(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example one main\n")
    (tmp_path / "sources.list.d" / "d.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "off.sources.disabled").write_text(DEB822)
    assert len(machine_sources(tmp_path)) == 4


def test_a_suite_that_is_not_configured_is_named() -> None:
    with pytest.raises(DemoError, match="trixie"):
        choose_source(list(parse_deb822(DEB822)), "trixie")


def test_only_a_debian_is_accepted(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    assert machine_codename(release) == "bookworm"
    release.write_text("ID=fedora\n")
    with pytest.raises(DemoError):
        machine_codename(release)
