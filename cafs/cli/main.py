"""The ``cafs`` program: global options, the table of commands, errors to exit codes.

Commands are imported when they are called, so that ``cafs --version`` and a mount do not pay for the
converter's libraries. Nothing else may be imported here at module level than click and the light
modules beside this one.

Exit codes: 0 done; 1 a registry, the disk or the machine's state stood in the way; 2 the user's mistake;
3 bytes are not what they should be; 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cafs import __version__
from cafs.cli.context import Context
from cafs.cli.failure import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    exit_code,
    one_line,
)
from cafs.errors import leading_error

if TYPE_CHECKING:
    from cafs.node.prefork import Keeper

# name -> one line of help. The command is the object ``command`` of module ``cafs.cli.NAME``, which
# prints through the ``Context`` it gets by ``@click.pass_obj``. To add one: write the module and add
# its line here.
COMMANDS = {
    "convert": "Build the index artifact of an image, a directory or a tar.",
    "inspect": "Show what a converted image consists of: sizes, chunks, dedup.",
    "ls": "List files of a converted image.",
    "cat": "Write a file of a converted image to standard output.",
    "check": "Read and verify every byte of index and chunks.",
    "diff": "Tell what two converted images share.",
    "cache": "Show, clean and verify the chunk store.",
    "pull": "Pull an image into containerd, lazily where it was converted.",
    "mount": "Mount an image lazily, without a daemon.",
    "umount": "Unmount an image and end its server.",
    "mountd": "Serve layers to this node's containers: the mount server.",
    "peer": "Exchange content with other hosts: the node's peer.",
    "task": "Show, explain and delete what this node's peer holds.",
    "top": "Show what this node's peer does, as it does it.",
    "profile": "Look at access profiles and attach them to images.",
    "ps": "Show the layers that are mounted lazily, and whose they are.",
    "explain": "Tell why reads of a mount failed: which chunk, who was asked, what they answered.",
    "snapshotter": "Serve containerd: converted images start lazily.",
    "scheduler": "Decide which peers feed which, and who goes to the source.",
    "manager": "Keep clusters and their configuration, for operators.",
    "up": "Run all services on this machine, and keep them running.",
    "job": "Have hosts do something: preheat, delete, tidy up; watch how far they are.",
    "get": "Download a file: by P2P, or straight where no peer runs.",
    "proxy": "Let other programs in: HTTP proxy and mirrors of registries.",
    "ca": "Make certificates: for mTLS between hosts, and for the proxy.",
    "doctor": "Tell what this machine can do, and how to mend what it cannot.",
}


def _keep(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    """Put a global option into the ``Context``, wherever on the line it stood."""
    context = ctx.ensure_object(Context)
    if not value or option.name is None:
        return
    if option.name == "flags":
        context.flags.extend(value)
    else:
        setattr(context, option.name, value)
    logging.getLogger().setLevel(context.log_level)


def _global_options() -> list[click.Parameter]:
    """Options that may stand before the command's name and after it."""

    def flag(name: str, text: str) -> click.Option:
        return click.Option([name], is_flag=True, expose_value=False, callback=_keep, help=text)

    return [
        flag("--json", "Print the result as JSON."),
        flag("--quiet", "Print results and errors only."),
        flag("--debug", "Log everything, and show tracebacks."),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path, dir_okay=False),
            expose_value=False,
            callback=_keep,
            help="A configuration file on top of the usual ones.",
        ),
        click.Option(
            ["--set", "flags"],
            multiple=True,
            metavar="KEY=VALUE",
            expose_value=False,
            callback=_keep,
            help="One setting, above files and environment.",
        ),
    ]


def _with_global_options(command: click.Command) -> click.Command:
    """Give a freshly imported command, and all below it, the global options it does not define itself."""
    taken = {name for parameter in command.params for name in parameter.opts}
    command.params.extend(option for option in _global_options() if not taken & set(option.opts))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _with_global_options(inner)
    return command


class LazyCommands(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            module = importlib.import_module(f"cafs.cli.{cmd_name}")
            self.commands[cmd_name] = _with_global_options(module.command)
        return self.commands[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyCommands,
    params=_global_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 damaged bytes, 130 interrupted.",
)
@click.version_option(__version__, prog_name="cafs")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Mount container images before they have arrived.

    SOURCE and TARGET are written as in skopeo: docker://HOST/REPO:TAG (also without the docker://),
    oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:PATH, tar:FILE.
    """


def run(arguments: Sequence[str], context: Context | None = None) -> int:
    """Run one command line in this process and return its exit code."""
    context = context or Context()
    level_before = logging.getLogger().level
    try:
        code = cli.main(list(arguments), prog_name="cafs", standalone_mode=False, obj=context)
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as e:
        return _ended_by(context, e)
    finally:
        logging.getLogger().setLevel(level_before)
    # An int is what a command gave to ``ctx.exit``.
    return code if isinstance(code, int) else EXIT_OK


def _ended_by(context: Context, error: BaseException) -> int:
    """The exit code for whatever came out of a command, after saying what there is to say."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort():
            return _fail(context, KeyboardInterrupt())
        case click.exceptions.NoArgsIsHelpError():
            sys.stderr.write(error.format_message() + "\n")
            return EXIT_USAGE
        case click.ClickException():
            return _fail_usage(context, error)
        case BrokenPipeError():
            return _leave_broken_pipe()
    return _fail(context, error)


def _fail(context: Context, error: BaseException) -> int:
    """Say in one line what ended the command."""
    leading = leading_error(error)
    code = exit_code(leading)
    if context.debug and code != EXIT_INTERRUPTED:
        traceback.print_exception(error)
    _say(context, one_line(leading), type(leading).__name__, code)
    return code


def _fail_usage(context: Context, error: click.ClickException) -> int:
    """A wrong command line, in one line that names the help to look at."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "cafs"
    message = error.format_message().rstrip(".")
    _say(context, f"{message} (see '{path} --help')", "UsageError", error.exit_code)
    return error.exit_code


def _say(context: Context, message: str, kind: str, code: int) -> None:
    if context.json:
        message = json.dumps({"error": message, "kind": kind, "exit_code": code}, ensure_ascii=False)
    else:
        message = f"cafs: {message}"
    sys.stderr.write(message + "\n")


def _leave_broken_pipe() -> int:
    """``cafs ls IMAGE | head``: whoever reads has seen enough. Nothing is wrong, and nothing is said."""
    # The interpreter flushes standard output once more at exit, which would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILURE


class _CurrentStderr(logging.StreamHandler[Any]):
    """Writes to whatever standard error is now: bars put their own there, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def _set_up_process() -> None:
    logging.basicConfig(
        level=logging.WARNING, format="cafs: %(levelname)s: %(message)s", handlers=[_CurrentStderr()]
    )
    # A path or a bar plot that the locale cannot write is shown with escapes, and is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # At DEBUG these would drown our records, and their headers would show credentials.
    for name in ("httpx2", "httpcore2", "hpack"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ended politely (systemd, docker stop), a command cleans up as after Ctrl-C. By way of SIGINT because
    # trio has its own handler there, which raises only where that is safe. It has none where SIGINT is
    # ignored, as by "cafs ... &" in a script, so that is not kept up; nor is what ``start`` has set.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


def flushed(code: int) -> int:
    """The exit code, once everything that was printed is out; another one when it cannot be."""
    logging.shutdown()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = EXIT_FAILURE
    except OSError as e:
        sys.stderr.write(f"cafs: the output cannot be written: {e.strerror}\n")
        code = EXIT_FAILURE
    with suppress(OSError):
        sys.stderr.flush()
    return code


def run_program(arguments: Sequence[str], keeper: Keeper | None) -> NoReturn:
    """Run one command line as this process, and end it.

    Args:
        arguments: Without the program's name.
        keeper: Forked in case this is a mount.
    """
    _set_up_process()
    context = Context(keeper=keeper)
    code = run(arguments, context)
    if context.keeper is not None:
        context.keeper.discard()
    # At once: taking all modules apart would cost a short command a fifth of its time. Whatever must be
    # closed in order was closed by the command itself.
    os._exit(flushed(code))
