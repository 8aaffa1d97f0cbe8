"""Programs are fetched whole once they are begun, and what they need with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.elf import HEAD_BYTES, parse_dynamic, parse_elf, parse_name
from cafs.fetch.elf_needs import Place
from cafs.fetch.image_files import ImageFiles
from cafs.fetch.limits import FetchLimits
from cafs.fetch.program_rows import BLOCK_BYTES, CODE_BYTES, WHOLE_BYTES, ProgramRows, plan_rows
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.oci.image import Entry, parse_config
from tests.support.elf_library import build_library
from tests.support.fetching import ScriptedSource, joined
from tests.support.patience import PATIENCE_S
from tests.support.raw_layer import CHUNK, open_layer

LS = Path("/bin/ls").resolve().read_bytes()
BLOCK = 4096
BIG = b"/bin/big"


def needed(content: bytes) -> list[bytes]:
    elf = parse_elf(content[:HEAD_BYTES])
    assert elf is not None
    assert elf.dynamic is not None
    dynamic = parse_dynamic(content[elf.dynamic[0] :][: elf.dynamic[1]])
    assert dynamic is not None
    strings = elf.offset_of(dynamic[0]) or 0
    return [parse_name(content[strings + n :][:256]) or b"" for n in dynamic[1]]


LIBRARY = Path("/lib/x86_64-linux-gnu/libc.so.6").resolve().read_bytes()
NAMES = needed(LS)
FILES = {
    b"usr/bin/ls": LS,
    b"usr/bin/script": b"#!/usr/bin/ls -l\n",
    b"usr/lib/x86_64-linux-gnu/real-" + NAMES[0]: LIBRARY,
    b"usr/share/doc": bytes(200_000),
}
LINKS = {
    b"bin": b"usr/bin",
    b"lib": b"usr/lib",
    b"usr/lib/x86_64-linux-gnu/" + NAMES[0]: b"/lib/x86_64-linux-gnu/real-" + NAMES[0],
    b"etc/loop": b"loop",
}


class Opened:
    """A layer in a service."""

    def __init__(self, service: ChunkService, folder: Path, *, big: bytes = b"") -> None:
        files = {**FILES, b"usr/bin/big": big} if big else FILES
        self.index, blob = open_layer(folder, files, LINKS)
        self.source = ScriptedSource(blob)
        self.reader: LayerReader = service.add_layer(self.index, [self.source], "sha256:" + "0" * 64)
        self.files = ImageFiles([(self.index, self.reader)])

    def place(self, path: bytes) -> int:
        found = self.files.file(path)
        assert found is not None
        assert found[0] is self.reader
        return found[1]

    def rows(self, path: bytes, content: bytes) -> range:
        begin = self.place(path)
        return self.reader.rows_between(begin, begin + len(content))

    async def fetched(self, service: ChunkService, rows: Sequence[int]) -> None:
        with trio.fail_after(PATIENCE_S):
            while True:
                if all(service.cached(self.reader.ref(row).digest) is not None for row in rows):
                    return
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("path", [b"/usr/bin/ls", b"/bin/script"])
async def test_a_program_and_its_libraries(tmp_path: Path, path: bytes) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        layer = Opened(service, tmp_path)
        service.programs.follow([layer.reader], layer.files)
        assert joined(await layer.reader.read(layer.place(path), 15))[:2] in {b"\x7fE", b"#!"}
        if path == b"/bin/script":
            service.programs.note_begun(layer.reader, layer.place(path))  # as an entry point
        await layer.fetched(service, layer.rows(b"/usr/bin/ls", LS))
        await layer.fetched(service, plan_of(layer, LIBRARY, b"/lib/x86_64-linux-gnu/" + NAMES[0]).rows)
        last = layer.rows(b"/usr/share/doc", FILES[b"usr/share/doc"])[-1]
        assert service.cached(layer.reader.ref(last).digest) is None
        assert service.stats().touched_frame_bytes <= CHUNK, "nobody has read the rest"


async def test_layers_that_are_not_followed(tmp_path: Path) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        layer = Opened(service, tmp_path)
        service.programs.follow([layer.reader], None)
        service.programs.forget(layer.reader)
        await layer.reader.read(layer.place(b"/bin/ls"), BLOCK)
        await trio.testing.wait_all_tasks_blocked()
        last = layer.rows(b"/bin/ls", LS)[-1]
        assert service.cached(layer.reader.ref(last).digest) is None


def plan_of(layer: Opened, content: bytes, path: bytes = BIG, *, is_used: bool = False) -> ProgramRows:
    elf = parse_elf(content[:HEAD_BYTES])
    assert elf is not None
    return plan_rows(layer.reader, layer.place(path), elf, is_used=is_used)


async def test_which_rows_of_a_library(tmp_path: Path) -> None:
    """Of one with little code, of one that is known to be used, and of a program: all but long tables."""
    much = CODE_BYTES + 4 * CHUNK
    small, library = build_library(CODE_BYTES // 2), build_library(much)
    program = build_library(much, interpreter=True)
    async with ChunkService(None, FetchLimits()) as service:
        for number, (content, is_used) in enumerate(
            ((small.content, False), (library.content, True), (program.content, False))
        ):
            (tmp_path / str(number)).mkdir()
            layer = Opened(service, tmp_path / str(number), big=content)
            plan = plan_of(layer, content, is_used=is_used)
            assert list(plan.rows) == list(layer.rows(BIG, content[:-192]))
            assert not plan.later


async def test_the_code_of_a_library_follows_when_it_is_run(tmp_path: Path) -> None:
    library = build_library(CODE_BYTES + 20 * CHUNK, constants_bytes=10 * CHUNK)
    async with ChunkService(None, FetchLimits()) as service:
        layer = Opened(service, tmp_path, big=library.content)
        begin = layer.place(BIG)
        plan = plan_of(layer, library.content)
        (later,) = plan.later
        everything = set(layer.rows(BIG, library.content[: library.data[1]]))
        assert set(plan.rows) | set(later.rows) == everything
        assert not set(plan.rows) & set(later.rows)
        assert set(later.signs) < set(later.rows)
        at_end = layer.reader.rows_between(begin + library.code[1] - 1, begin + library.code[1])
        assert at_end[0] not in later.signs, "what constructors call may lie there"
        service.programs.follow([layer.reader], layer.files)
        await layer.reader.read(begin, BLOCK)
        await layer.fetched(service, plan.rows)
        middle = layer.reader.table.start(later.signs[len(later.signs) // 2])
        assert service.cached(layer.reader.ref(later.rows[-1]).digest) is None
        await layer.reader.read(middle, BLOCK)
        await layer.fetched(service, later.rows)


async def test_code_that_was_run_before_anybody_looked_is_noticed(tmp_path: Path) -> None:
    library = build_library(CODE_BYTES + 20 * CHUNK)
    async with ChunkService(None, FetchLimits()) as service:
        layer = Opened(service, tmp_path, big=library.content)
        (later,) = plan_of(layer, library.content).later
        await layer.reader.read(layer.reader.table.start(later.signs[0]), BLOCK)
        service.programs.follow([layer.reader], layer.files)
        service.programs.note_begun(layer.reader, layer.place(BIG))
        await layer.fetched(service, later.rows)


async def test_the_code_of_a_large_program_follows_in_blocks(tmp_path: Path) -> None:
    library = build_library(WHOLE_BYTES + 2 * CHUNK, interpreter=True)
    async with ChunkService(None, FetchLimits()) as service:
        layer = Opened(service, tmp_path, big=library.content)
        plan = plan_of(layer, library.content)
        code = set(layer.reader.rows_between(*(layer.place(BIG) + end for end in library.code)))
        blocks = [set(later.rows) for later in plan.later]
        assert set.union(*blocks) == code - set(plan.rows)
        assert sum(map(len, blocks)) == len(set.union(*blocks))
        assert all(BLOCK_BYTES <= CHUNK * len(block) < BLOCK_BYTES + CHUNK for block in blocks[:-1])
        service.programs.follow([layer.reader], layer.files)
        await layer.reader.read(layer.place(BIG), BLOCK)
        await layer.reader.read(layer.reader.table.start(min(blocks[3])), BLOCK)
        await layer.fetched(service, sorted(blocks[3]))
        last = max(blocks[8])
        assert service.cached(layer.reader.ref(last).digest) is None
        service.programs.forget(layer.reader)


async def test_what_is_found_in_the_tree(tmp_path: Path) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        layer = Opened(service, tmp_path)
        program = (layer.reader, layer.place(b"/usr/bin/ls"))
        script = (layer.reader, layer.place(b"/usr/bin/script"))

        def entry(words: Entry) -> list[Place]:
            found = layer.files.entry(words)
            assert all(layer.files.file(path) == place for path, place in found)
            return [place for _, place in found]

        assert entry(Entry(("ls", "-l", "script", "/bin/script"), "/nowhere:/bin", "/")) == [
            program,
            script,
            script,
        ]
        assert entry(Entry(("ls",), "", "/")) == [program]
        assert entry(Entry(("../usr/bin/ls",), "", "/etc")) == [program]
        assert entry(Entry(("nothing", "/etc/loop", "/bin"), "", "/")) == []
        assert layer.files.library(NAMES[0]) == layer.files.file(b"lib/x86_64-linux-gnu/" + NAMES[0])
        assert layer.files.library(b"libnone.so") is None
        assert layer.files.library(b"/usr/bin/ls") == program


def test_the_entry_of_an_image() -> None:
    config = (
        b'{"rootfs": {"diff_ids": []}, "config": {"Entrypoint": ["python3"], "Cmd": ["/app/x.py"],'
        b' "Env": ["A=b", "PATH=/opt/bin:/bin"], "WorkingDir": "/app"}}'
    )
    assert parse_config(config, "c").entry == Entry(("python3", "/app/x.py"), "/opt/bin:/bin", "/app")
    for spoilt in (b'{"Entrypoint": 5}', b"[]", b'{"Env": [5]}', b"null"):
        content = b'{"rootfs": {"diff_ids": []}, "config": ' + spoilt + b"}"
        assert parse_config(content, "c").entry == Entry((), "", "/")
