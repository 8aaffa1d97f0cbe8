"""Compiles the messages of ``proto/*.proto`` to Python modules ``cafs.proto.NAME_pb2``.

``setup.py`` runs it whenever CAFS is built or installed, ``make`` when a .proto has changed, and a developer
with ``python proto/generate.py``. What it writes is not kept in git. A .proto imports another one as
``cafs/proto/NAME.proto``, so that the generated modules find each other.
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
PROJECT = SOURCES.parent


def generate() -> None:
    """Write the modules and their type stubs into ``cafs/proto``."""
    names = sorted(str(path) for path in SOURCES.glob("*.proto"))
    with as_file(files("grpc_tools") / "_proto") as well_known:
        code = protoc.main(
            [
                "protoc",
                f"--proto_path=cafs/proto={SOURCES}",
                f"--proto_path={well_known}",
                f"--python_out={PROJECT}",
                f"--pyi_out={PROJECT}",
                *names,
            ]
        )
    if code != 0:
        sys.exit("proto/*.proto cannot be compiled, see above")


if __name__ == "__main__":
    generate()
