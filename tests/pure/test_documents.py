"""Documents that list what the code knows must list it all."""

import re
from dataclasses import fields
from pathlib import Path

from cafs.cli import failure
from cafs.cli.main import COMMANDS
from cafs.core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def test_every_setting_is_documented_as_it_is() -> None:
    for setting in fields(Settings):
        kind, doc = setting.metadata["kind"].value, setting.metadata["doc"]
        line = rf"^\| `{setting.name}` \| {kind} \| .* \| {re.escape(doc)} \|$"
        assert re.search(line, OPERATIONS, re.MULTILINE), f"docs/operations.md lacks {line}"


def test_every_exit_code_is_documented() -> None:
    codes = [value for name, value in vars(failure).items() if name.startswith("EXIT_")]
    assert codes == [0, 1, 2, 3, 130]
    for code in codes:
        assert re.search(rf"^\| {code} \|", OPERATIONS, re.MULTILINE)


def test_the_readme_shows_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in COMMANDS if not re.search(rf"\bcafs {name}\b", readme)]
    assert missing == []


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_the_tests_of_bad_input_exist() -> None:
    tests = Path(__file__).parents[1]
    named = re.findall(r"`(\w[\w/]+\.py)::(\w+)`", (tests.parent / "docs/bad-input.md").read_text())
    assert len(named) > 30
    assert [name for file, name in named if f"def {name}(" not in (tests / file).read_text()] == []
