"""Builds what git does not hold: the modules generated from ``proto/``. All else is in ``pyproject.toml``."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPython(build_py):
    """Generates before it collects modules; for editable installs too."""

    def run(self) -> None:
        runpy.run_path(str(Path(__file__).parent / "proto" / "generate.py"))["generate"]()
        super().run()


setup(cmdclass={"build_py": BuildPython})
