"""The program's frame: options, errors, exit codes, start-up."""

import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from cafs import __version__
from cafs.cli import main as main_module
from cafs.cli.context import Context
from cafs.cli.main import COMMANDS, run
from cafs.errors import IntegrityError, RemoteError, UsageError
from tests.support.patience import PATIENCE_S
from tests.support.program import ROOT, cafs_command, run_cafs

Install = Callable[[Callable[[Context], None]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a function the command ``cafs probe``."""

    def put(body: Callable[[Context], None]) -> None:
        @click.command()
        @click.pass_obj
        def command(context: Context) -> None:
            body(context)

        module = types.ModuleType("cafs.cli.probe")
        vars(module)["command"] = command
        monkeypatch.setitem(sys.modules, "cafs.cli.probe", module)
        monkeypatch.setitem(main_module.COMMANDS, "probe", "Probes.")
        monkeypatch.delitem(main_module.cli.commands, "probe", raising=False)

    yield put
    main_module.cli.commands.pop("probe", None)


BUG = "cafs: internal error, please report it with the output of --debug: ZeroDivisionError: oh"


def raiser(error: BaseException) -> Callable[[Context], None]:
    def body(context: Context) -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such tag"), 2, "cafs: no such tag"),
        (RemoteError("it\nsaid no"), 1, "cafs: it said no"),
        (IntegrityError("rotten"), 3, "cafs: rotten"),
        (ExceptionGroup("nursery", [RemoteError("gone")]), 1, "cafs: gone"),
        (ZeroDivisionError("oh"), 1, BUG),
        (KeyboardInterrupt(), 130, "cafs: interrupted"),
        (click.Abort(), 130, "cafs: interrupted"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(
    install: Install, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    install(raiser(error))
    assert run(["probe"]) == code
    # Ctrl-C leaves "^C" on the terminal: click begins a fresh line.
    assert capsys.readouterr().err.lstrip("\n") == line + "\n"


def test_debug_shows_the_traceback_and_json_an_object(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raiser(IntegrityError("rotten")))
    assert run(["--debug", "probe"]) == 3
    assert "Traceback" in capsys.readouterr().err
    assert run(["probe", "--json"]) == 3
    assert json.loads(capsys.readouterr().err) == {
        "error": "rotten",
        "kind": "IntegrityError",
        "exit_code": 3,
    }


@pytest.mark.parametrize("arguments", [["--json", "--quiet", "probe"], ["probe", "--json", "--quiet"]])
def test_global_options_stand_on_either_side(
    install: Install, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    def body(context: Context) -> None:
        context.note("not with --quiet")
        context.result({"answer": 42}, "forty-two")

    install(body)
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"answer": 42}, "")
    assert run(["probe"]) == 0
    assert capsys.readouterr() == ("forty-two\n", "not with --quiet\n")


def test_settings_come_from_flags_and_files(install: Install, tmp_path: Path) -> None:
    seen = []
    install(lambda context: seen.append(context.settings))
    config = tmp_path / "c.toml"
    config.write_text("retries = 7\n")
    assert run(["--config", str(config), "probe", "--set", "fetch_concurrency=3"]) == 0
    assert (seen[0].retries, seen[0].fetch_concurrency) == (7, 3)


WAITER = """
import signal, sys, types, click, trio
from cafs.cli import main

async def wait():
    await trio.sleep_forever()

@click.command()
@click.argument("how")
def command(how):
    try:
        print("waiting", flush=True)
        trio.run(wait) if how == "trio" else signal.pause()
    finally:
        print("cleaned up", flush=True)

sys.modules["cafs.cli.probe"] = types.SimpleNamespace(command=command)
main.COMMANDS["probe"] = "Probes."
main.run_program(["probe", sys.argv[1]], None)
"""


@pytest.mark.parametrize("how", ["trio", "plain"])
@pytest.mark.parametrize("sigint", ["default", "ignore"])
def test_sigterm_ends_a_command_also_where_sigint_is_ignored(how: str, sigint: str) -> None:
    """As it is in the background of a script."""
    started = ["env", f"--{sigint}-signal=INT", sys.executable, "-c", WAITER, how]
    with subprocess.Popen(
        started, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.terminate()
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out, err.strip()) == (130, "cleaned up\n", "cafs: interrupted")


def test_ctrl_c_while_it_loads_ends_it_silently(tmp_path: Path) -> None:
    slow = tmp_path / "click"
    slow.mkdir()
    (slow / "__init__.py").write_text("import os; os.write(1, b'loading'); os.read(0, 1)")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    started = ["env", "--default-signal=INT", *cafs_command("cache")]
    with subprocess.Popen(
        started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == b"loading"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (-signal.SIGINT, b"")


def test_an_exit_code_chosen_by_a_command_is_kept(install: Install) -> None:
    install(lambda context: click.get_current_context().exit(1))
    assert run(["probe"]) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["frob"], "cafs: No such command 'frob' (see 'cafs --help')"),
        (["probe", "--frob"], "cafs: No such option '--frob' (see 'cafs probe --help')"),
    ],
)
def test_wrong_use_is_one_line_that_names_the_help(
    install: Install, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    install(raiser(AssertionError()))
    assert run(arguments) == 2
    assert capsys.readouterr().err == line + "\n"


def test_every_command_that_is_offered_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    inner = (["job", "create"], ["job", "schedule"], ["job", "schedule", "add"])
    for words in [*([name] for name in COMMANDS), *inner]:
        assert run([*words, "--help"]) == 0
        told = capsys.readouterr().out
        assert told.startswith(f"Usage: cafs {' '.join(words)}")
        assert re.findall(r"\w\.\.\.$", told, re.MULTILINE) == [], "a subcommand's description is cut short"
        assert COMMANDS[words[0]].endswith(".")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        cafs_command("--help"), stdout=write_end, stderr=subprocess.PIPE, cwd=ROOT, check=False
    )
    os.close(write_end)
    assert done.stderr == b""


def test_start_up_loads_nothing_heavy() -> None:
    script = (
        "import sys; from cafs.cli.main import run; run(['--version']);"
        "print([m for m in ('trio', 'httpx', 'numpy', 'rich', 'lmdb', 'zstandard') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines() == [f"cafs, version {__version__}", "[]"]


def test_the_program_tells_its_version() -> None:
    assert run_cafs("--version").out == f"cafs, version {__version__}\n"


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(cafs_command("cache"), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1
