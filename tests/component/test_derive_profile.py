"""A profile derived from an image: what its entry point loads, in that order, and nothing else."""

from __future__ import annotations

import os
import py_compile
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from cafs.core.elf import HEAD_BYTES, parse_elf
from cafs.core.profile import PREFIX_BYTES, Profile
from cafs.fetch.derive_profile import derive_profile
from cafs.fetch.image_files import ImageFiles
from cafs.fetch.limits import FetchLimits
from cafs.fetch.program_rows import CODE_BYTES, plan_rows
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.fetch.used_code import UsedCode
from cafs.oci.image import Entry
from tests.support.elf_library import Library, build_library
from tests.support.fetching import ScriptedSource
from tests.support.raw_layer import open_layer

MINOR = sys.version_info.minor
HOME = b"usr/lib/python3.%d/" % MINOR
SITE = b"usr/lib/python3/dist-packages/"
VENV = b"opt/venv/lib/python3.%d/site-packages/" % MINOR
LIBRARY = Path("/bin/ls").resolve().read_bytes()
PAD = "\n".join(f"FILLER_{n} = {os.urandom(24).hex()!r}" for n in range(800))
"""Makes a module longer than a chunk, so that fetching it says that it was meant."""


def module(text: str) -> str:
    return f"{text}\ndef function():\n    import far\n{PAD}\n"


SOURCES = {
    HOME + b"os.py": module("import json.decoder"),
    HOME + b"json/__init__.py": module("from .decoder import JSONDecoder"),
    HOME + b"json/decoder.py": module("import sys, nowhere"),
    HOME + b"far.py": module(""),
    SITE + b"first/__init__.py": module("from . import inner, sibling as s\nfrom first.sub.deep import x"),
    SITE + b"first/inner.py": module("import os, linked"),
    SITE + b"first/sibling.py": module("from .. import beyond"),
    SITE + b"first/unused.py": module(""),
    SITE + b"first/sub/__init__.py": module(""),
    SITE + b"first/sub/deep.py": module("from ..inner import y\nimport library"),
    HOME + b"encodings/__init__.py": module("import codecs"),
    HOME + b"server/__init__.py": module(""),
    HOME + b"server/__main__.py": module("import json"),
    VENV + b"of_venv.py": module("import json"),
    b"app/beside.py": module("import first"),
}
FUNCTIONS = [b"f%d" % number for number in range(CODE_BYTES * 2 >> 12)]
DEEP_CODE = build_library(
    CODE_BYTES * 2, functions={name: number << 12 for number, name in enumerate(FUNCTIONS)}, seed=2
)
"""Each page of its code is a function."""
CALLER = build_library(4096, wanted=FUNCTIONS, interpreter=True, seed=3)
INDIFFERENT = build_library(4096, wanted=[b"f1", b"f2"], interpreter=True, seed=4)
PLAIN = {
    b"usr/bin/python3.%d" % MINOR: LIBRARY,
    b"usr/bin/sh": build_library(64 << 10, interpreter=True, seed=7).content,
    b"app/start.sh": b"#!/usr/bin/env python3\nexec it\n",
    b"app/venv.py": b"from of_venv import *\n",
    b"app/main.py": b"#!/usr/bin/env python3\nimport beside\n",
    b"app/text.txt": b"import far\n",
    b"app/serve": b"#!/bin/sh\nexec setpriv --reuid=me \\\n  /opt/server --option\nnothing\n",
    b"usr/bin/setpriv": build_library(64 << 10, interpreter=True, seed=5).content,
    b"opt/server": build_library(64 << 10, interpreter=True, seed=6).content,
    SITE + b"library.so": LIBRARY,
}


LINKS = {HOME + b"linked.py": b"json/decoder.py", b"usr/bin/python3": b"python3.%d" % MINOR}


def cached_path(source: bytes) -> bytes:
    folder, _, name = source.rpartition(b"/")
    return folder + b"/__pycache__/" + name.removesuffix(b".py") + b".cpython-3%d.pyc" % MINOR


def compiled(folder: Path) -> dict[bytes, bytes]:
    """All sources and their compiled form, which says where it will lie."""
    files: dict[bytes, bytes] = dict(PLAIN)
    for path, text in SOURCES.items():
        source = folder / "source.py"
        source.write_text(text)
        cached = py_compile.compile(str(source), dfile="/" + path.decode(), doraise=True)
        files[path], files[cached_path(path)] = text.encode(), Path(cached or "").read_bytes()
    return files


class Opened:
    """The image in a service."""

    def __init__(
        self,
        service: ChunkService,
        folder: Path,
        files: Mapping[bytes, bytes],
        links: Mapping[bytes, bytes] = LINKS,
    ) -> None:
        self.content = files
        index, blob = open_layer(folder, files, links)
        self.service = service
        self.reader: LayerReader = service.add_layer(index, [ScriptedSource(blob)], "sha256:" + "0" * 64)
        self.files = ImageFiles([(index, self.reader)])

    def begin(self, path: bytes) -> int:
        place = self.files.file(path)
        assert place is not None, path
        return place[1]

    def chunks(self, path: bytes) -> list[bytes]:
        rows = self.reader.rows_between(self.begin(path), self.begin(path) + len(self.content[path]))
        return [self.reader.ref(row).digest[:PREFIX_BYTES] for row in rows]

    async def derive(self, *words: str, folder: str = "/app") -> Profile:
        entry = Entry(words, "/usr/bin", folder)
        return await derive_profile(self.service, self.files, [self.reader], entry)

    def files_of(self, profile: Profile) -> list[bytes]:
        """The modules that the profile holds wholly, compiled where they are, in its order."""
        turns = {prefix: turn for turn, (_, prefix) in enumerate(profile.chunks)}
        found = {}
        for path in self.content:
            if not path.startswith(tuple(SOURCES)) and path.endswith(
                (b".pyc", b".so", b"python3.%d" % MINOR)
            ):
                chunks = self.chunks(path)
                # A chunk at the edge may hold a neighbour's end: the inner ones are the file's own.
                if all(prefix in turns for prefix in chunks):
                    found[path] = turns[chunks[len(chunks) // 2]]
        return sorted(found, key=found.__getitem__)


FIRST = [SITE + b"first/" + name for name in (b"__init__.py", b"inner.py", b"sibling.py")]
DEEP = [SITE + b"first/sub/__init__.py", SITE + b"first/sub/deep.py"]


async def test_what_a_script_imports_in_that_order(tmp_path: Path) -> None:
    """What functions import, and what nobody imports, is not in it."""
    async with ChunkService(None, FetchLimits()) as service:
        image = Opened(service, tmp_path, compiled(tmp_path))
        profile = await image.derive("python3", "main.py")
        assert profile.is_derived
        found = image.files_of(profile)
        start = [b"usr/bin/python3.%d" % MINOR, cached_path(HOME + b"encodings/__init__.py")]
        first = [cached_path(path) for path in (b"app/beside.py", *FIRST, *DEEP)]
        assert [path for path in found if path in {*start, *first}] == start + first
        assert SITE + b"library.so" in found
        linked = set(image.chunks(HOME + b"json/decoder.py"))
        assert linked <= {prefix for _, prefix in profile.chunks}, "a link to it is imported"
        for path in (HOME + b"far.py", SITE + b"first/unused.py", HOME + b"server/__main__.py"):
            assert cached_path(path) not in found
        again = await image.derive("python3", "main.py")
        assert again == profile


async def test_a_module_that_is_run_by_its_name(tmp_path: Path) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        image = Opened(service, tmp_path, compiled(tmp_path))
        found = image.files_of(await image.derive("python3", "-m", "server"))
        assert cached_path(HOME + b"server/__main__.py") in found
        assert cached_path(HOME + b"json/__init__.py") in found


async def test_the_interpreter_of_a_script(tmp_path: Path) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        image = Opened(service, tmp_path, compiled(tmp_path))
        found = image.files_of(await image.derive("/app/start.sh", "--option"))
        assert found[0] == b"usr/bin/python3.%d" % MINOR


async def test_the_programs_that_a_shell_script_runs(tmp_path: Path) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        links = {b"bin": b"usr/bin"}
        image = Opened(service, tmp_path, PLAIN, links)
        names = [prefix for _, prefix in (await image.derive("/app/serve")).chunks]
        turns = [
            names.index(image.chunks(path)[2]) for path in (b"usr/bin/sh", b"usr/bin/setpriv", b"opt/server")
        ]
        assert turns == sorted(turns)


@pytest.mark.parametrize(("caller", "is_used"), [(CALLER, True), (INDIFFERENT, False)])
async def test_code_of_which_many_functions_are_wanted(
    tmp_path: Path, caller: Library, is_used: bool
) -> None:
    files = {b"bin/caller": caller.content, b"lib/deep.so": DEEP_CODE.content}
    async with ChunkService(None, FetchLimits()) as service:
        image = Opened(service, tmp_path, files)

        async def read(layer: LayerReader, offset: int, size: int) -> bytes:
            return await service.peek(layer, offset, size, trio.current_time() + 10)

        used = UsedCode(read)
        for turn, (path, content) in enumerate(files.items()):
            elf, begin = parse_elf(content[:HEAD_BYTES]), image.begin(path)
            assert elf is not None
            plan = plan_rows(image.reader, begin, elf)
            await used.note((image.reader, begin), content[:HEAD_BYTES], elf, plan, turn)
        assert used.found() == ([(1, image.reader, plan.later[0].rows)] if is_used else [])


async def test_where_modules_are_not_compiled_their_source_is_read(tmp_path: Path) -> None:
    files = {path: content for path, content in compiled(tmp_path).items() if not path.endswith(b".pyc")}
    async with ChunkService(None, FetchLimits()) as service:
        image = Opened(service, tmp_path, files)
        names = {prefix for _, prefix in (await image.derive("python3", "main.py")).chunks}
        for path in (b"app/beside.py", *FIRST, *DEEP):
            assert set(image.chunks(path)) <= names
        assert not set(image.chunks(SITE + b"first/unused.py")[1:-1]) <= names


async def test_a_virtual_environment_is_known_by_its_interpreter(tmp_path: Path) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        files = compiled(tmp_path) | {b"opt/venv/bin/python": LIBRARY}
        image = Opened(service, tmp_path, files)
        found = image.files_of(await image.derive("/opt/venv/bin/python", "/app/venv.py"))
        assert cached_path(VENV + b"of_venv.py") in found


@pytest.mark.parametrize("words", [(), ("nothing",), ("/usr/lib",), ("",), ("../../x.py",)])
async def test_an_image_of_which_nothing_is_known(tmp_path: Path, words: tuple[str, ...]) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        image = Opened(service, tmp_path, compiled(tmp_path))
        assert (await image.derive(*words)).chunks == ()


@pytest.mark.parametrize(
    "path", [b"app/none.py", b"usr/lib", b"", b"../../x.py", b"usr/lib/python3/dist-packages"]
)
async def test_what_is_no_script(tmp_path: Path, path: bytes) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        assert Opened(service, tmp_path, compiled(tmp_path)).files.modules.script(path) is None
