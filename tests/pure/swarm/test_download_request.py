"""What somebody on this machine wants of its peer."""

from __future__ import annotations

import json

import pytest

from cafs.core.swarm.download_request import parse_download
from cafs.core.swarm.ids import task_id
from cafs.core.swarm.task import TaskSpec, is_name
from cafs.errors import UsageError
from cafs.p2p.engine import spec_of_version

URL = "https://example.org/f"


@pytest.mark.parametrize("name", ["x" * 256, "\u20ac" * 86, "two\nlines", "\x85", "\ud800"])
@pytest.mark.parametrize("member", ["tag", "application", "filtered_query"])
def test_names_that_no_scheduler_would_hear(member: str, name: str) -> None:
    body = {"url": URL, member: [name] if member == "filtered_query" else name}
    with pytest.raises(UsageError, match=f"{member} must be printable"):
        parse_download(json.dumps(body).encode())


def test_names() -> None:
    wanted = parse_download(json.dumps({"url": URL, "tag": "x" * 255, "filtered_query": ["\u20ac"]}).encode())
    assert (wanted.tag, wanted.filtered_query) == ("x" * 255, ("\u20ac",))


@pytest.mark.parametrize("version", ['"2"', "x" * 255, "\x85", "\udc85"])
def test_whatever_an_origin_calls_a_version_has_a_name(version: str) -> None:
    first = TaskSpec(task_id=task_id(URL), url=URL)
    named = {spec_of_version(first, each).tag for each in (version, version + "3", version)}
    assert len(named) == 2
    assert all(map(is_name, named))
