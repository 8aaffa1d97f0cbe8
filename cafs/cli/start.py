"""Entry point of the ``cafs`` program: decides in a millisecond how a command line is run.

A mount is kept by a process of its own (``cafs.node.prefork``), which has more to load than the command.
It is forked as soon as what both need is loaded, before the command line's library, so that the rest loads
side by side. A pull is run by a process that has loaded everything, where there is one (``pull_errand``).
Nothing may be imported at module level that this does not need, and that is nothing that lies in a file of
its own: no ``typing``, no ``__future__``.
"""

import _signal  # type: ignore[import-not-found]  # what ``signal`` wraps, without enum
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the ``cafs`` program."""
    if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        # Ctrl-C while it loads just ends it: the interpreter would show where it was. Later it does more.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    arguments = sys.argv[1:]
    keeper = None
    if looks_like_mount(arguments):
        from cafs.node.warm_up import warm_up  # noqa: PLC0415 - see above

        warm_up()
        gc.disable()  # it would look through what is being loaded again and again; both processes are short
        from cafs.node.prefork import Keeper  # noqa: PLC0415 - see above

        keeper = Keeper()
    elif "pull" in arguments:
        from cafs.cli.pull_errand import looks_like_pull, run_errand  # noqa: PLC0415 - see above

        if looks_like_pull(arguments) and (code := run_errand(arguments)) is not None:
            os._exit(code)
    from cafs.cli.main import run_program  # noqa: PLC0415 - see above

    run_program(arguments, keeper)


def looks_like_mount(arguments: "Sequence[str]") -> bool:
    """Whether this command line will mount something, as far as one sees without parsing it.

    Wrong guesses do no harm: a keeper that is not needed is ended, and one that is missing is forked later.
    """
    words = [word for word in arguments if not word.startswith("-")]
    return len(words) >= 3 and words[0] == "mount" and not {"-h", "--help"} & set(arguments)
