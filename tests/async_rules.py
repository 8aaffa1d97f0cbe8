"""flake8-async's rules over files, without the nine tenths of its time that find nothing.

Run as ``python -m tests.async_rules FILE...``. It reads a file into two trees. Most rules look at Python's
own, in milliseconds. Making and asking the other one, for ``noqa`` and for rule 101, takes half a second a
file; so it is shown only files in which 101 may find something, or in which another rule has.
"""

from __future__ import annotations

import ast
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from multiprocessing import Pool
from pathlib import Path

from flake8_async import Plugin

RULES = ("--enable=ASYNC1,ASYNC2,ASYNC3", "--disable=ASYNC100,ASYNC124,ASYNC300")
"""Not asked for: 100 and 300, which ruff has as ASYNC100 and RUF006; 124, as a fake or a null object of an
async interface need not wait for anything."""
_MAY_YIELD_ANYWHERE = {"contextmanager", "asynccontextmanager", "fixture"}


def complaints(path: str) -> Sequence[str]:
    """What is wrong in a file, a line each; nothing that a ``noqa`` there names."""
    source = Path(path).read_text()
    tree = ast.parse(source)
    if not _yields_in_a_block(tree) and not list(Plugin(tree, []).run()):
        return []
    found = Plugin(tree, source.splitlines(keepends=True)).run()
    return [f"{path}:{error}" for error in sorted(found)]


def _yields_in_a_block(tree: ast.AST) -> bool:
    """Whether a function yields inside of ``with``, though it is no context manager: what 101 looks for."""
    return any(
        isinstance(inner, ast.Yield)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and not _MAY_YIELD_ANYWHERE.intersection(map(_last_name, function.decorator_list))
        for block in ast.walk(function)
        if isinstance(block, ast.With | ast.AsyncWith)
        for inner in ast.walk(block)
    )


def _last_name(decorator: ast.expr) -> str:
    return ast.unparse(decorator).partition("(")[0].rpartition(".")[2]


def _set_up() -> None:
    parser = ArgumentParser()
    Plugin.add_options(parser)
    Plugin.parse_options(parser.parse_args(RULES))


def main(paths: Iterable[str]) -> int:
    """Answers the exit code."""
    with Pool(os.cpu_count(), initializer=_set_up) as pool:
        told = [line for lines in pool.imap(complaints, paths) for line in lines]
    sys.stdout.writelines(f"{line}\n" for line in told)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
