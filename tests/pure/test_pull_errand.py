"""What a ``cafs pull`` sends to a process that is ready for it, and when it does at all."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cli.pull_errand import (
    LENGTH_BYTES,
    Errand,
    looks_like_pull,
    parse_errand,
    parse_length,
    send_errand,
    usual_place,
)

WORD = st.binary(max_size=20).map(lambda word: word.replace(b"\0", b""))
NAME = WORD.map(lambda word: b"N" + word.replace(b"=", b""))
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)


@given(st.lists(TEXT), st.lists(TEXT), st.lists(WORD), st.dictionaries(NAME, WORD))
def test_what_was_sent_is_what_is_read(
    same: Sequence[str],
    encodings: Sequence[str],
    arguments: Sequence[bytes],
    environment: Mapping[bytes, bytes],
) -> None:
    sent = Errand(same, encodings, arguments, environment).encode()
    assert parse_length(sent[:LENGTH_BYTES]) == len(sent) - LENGTH_BYTES
    read = parse_errand(sent[LENGTH_BYTES:])
    assert (read.same, read.encodings, read.arguments, read.environment) == (
        list(same), list(encodings), list(arguments), dict(environment)
    )  # fmt: skip


@given(st.binary() | st.lists(st.sampled_from([b"0", b"1", b"3", b"-1", b"x", b""])).map(b"\0".join))
def test_nonsense_is_refused(body: bytes) -> None:
    try:
        read = parse_errand(body)
    except ValueError:
        return
    assert parse_errand(read.encode()[LENGTH_BYTES:]).arguments == read.arguments


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="4294967295 bytes"):
        parse_length(b"\xff" * LENGTH_BYTES)


@pytest.mark.parametrize(
    ("line", "pulls"),
    [
        ("pull IMAGE", True),
        ("--quiet --json pull -n k8s.io IMAGE", True),
        ("--set=run_dir=/r --config=/c pull IMAGE", True),
        ("pull", True),
        ("pull --help", False),
        ("--set run_dir=/r pull IMAGE", False),
        ("mount pull /mnt", False),
        ("--set pull mount IMAGE /mnt", False),
        ("-h pull", False),
        ("", False),
    ],
)
def test_only_what_is_a_pull_for_sure_is_handed_over(line: str, pulls: bool) -> None:
    assert looks_like_pull(line.split()) is pulls


@pytest.mark.parametrize(
    ("line", "environment", "place"),
    [
        ("pull IMAGE", {"CAFS_RUN_DIR": "/v"}, "/v/pull.sock"),
        ("pull --set=run_dir=/a --set=run-dir=/b --set=retries=1", {"CAFS_RUN_DIR": "/v"}, "/b/pull.sock"),
        ("pull IMAGE --set run_dir=/c", {}, "/c/pull.sock"),
        ("pull --set=run_dir=~/x", {"CAFS_RUN_DIR": "/v"}, None),
        ("pull IMAGE", {"CAFS_RUN_DIR": "v"}, None),
        ("pull --config FILE", {}, None),
        ("pull IMAGE", {"CAFS_CONFIG": "/c"}, None),
    ],
)
def test_the_place_is_the_one_that_the_settings_say(
    line: str, environment: Mapping[str, str], place: str | None
) -> None:
    assert usual_place(line.split(), environment) == place


class _ToOneWhoIsQuick(socket.socket):
    """Whoever is sent something has done it, told so and ended before the call returns."""

    other: socket.socket

    def sendmsg(self, *words: Any) -> int:
        sent = super().sendmsg(*words)
        assert len(self.other.recv(1 << 20)) == sent
        self.other.sendall(b"done")
        self.other.close()
        return sent


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[_ToOneWhoIsQuick]:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, StringIO())
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with _ToOneWhoIsQuick(fileno=ours.detach()) as connection, other:
        connection.other = other
        yield connection


def test_who_is_quick_is_heard(quick: _ToOneWhoIsQuick) -> None:
    send_errand(quick, ["pull", "app"])
    assert quick.recv(9) == b"done"
