"""Uploads to containerd's content store that are given up at a bad moment: nothing is left of them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from cafs.containerd.content import Content
from cafs.core.digest import sha256_digest
from cafs.errors import NotFoundError
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import OCI_LAYER
from cafs.proto import content_pb2 as pb
from tests.support.patience import PATIENCE_S

BLOB = b"content of a layer"
LAYER = Descriptor(sha256_digest(BLOB), len(BLOB), OCI_LAYER)


class SlowService:
    """containerd's service as ``Content`` uses it; it opens an upload when ``may_open`` is set."""

    def __init__(self) -> None:
        self.may_open = threading.Event()
        self.uploads: set[str] = set()
        self.asked = threading.Event()
        self.opened = threading.Event()

    def stream(self, _method: str, requests: Iterator[Any], **_more: object) -> SlowCall:
        return SlowCall(self, requests)

    async def call(self, method: str, request: Any, _what: str, **_more: object) -> Any:
        if method != "Abort":
            raise NotFoundError("it is not there")
        self.uploads.remove(request.ref)


class SlowCall:
    """Its stream."""

    def __init__(self, service: SlowService, requests: Iterator[Any]) -> None:
        self._service = service
        self._requests = requests

    def __next__(self) -> Any:
        request = next(self._requests)
        self._service.asked.set()
        self._service.may_open.wait(PATIENCE_S)
        self._service.uploads.add(request.ref)
        self._service.opened.set()
        return pb.WriteContentResponse()

    def cancel(self) -> None:
        pass


class SlowContainerd:
    """A ``Connection`` to it."""

    def __init__(self, service: SlowService) -> None:
        self._service = service

    def service(self, _descriptor: object, _name: str) -> SlowService:
        return self._service


@pytest.mark.parametrize("opens", ["before", "after"])
async def test_an_upload_is_thrown_away_whenever_the_pull_was_interrupted(opens: str) -> None:
    """Before containerd has answered that it is open, or after."""
    service = SlowService()
    content = Content(SlowContainerd(service))  # type: ignore[arg-type]  # stands for it
    if opens == "before":
        service.may_open.set()

    @asynccontextmanager
    async def never() -> AsyncIterator[AsyncIterator[bytes]]:
        await trio.sleep_forever()
        yield None

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(content.write_stream, LAYER, never, {})
            await trio.to_thread.run_sync(service.asked.wait)
            nursery.cancel_scope.cancel()
            threading.Timer(0.2, service.may_open.set).start()
        await trio.to_thread.run_sync(service.opened.wait)
    assert service.uploads == set()
