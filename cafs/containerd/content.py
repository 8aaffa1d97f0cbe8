"""containerd's content store: blobs by digest. containerd verifies each before it has a name.

A small blob is written by one message, a large one by a stream that is fed piece by piece.
"""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import grpc
import trio
from google.protobuf.field_mask_pb2 import FieldMask

from cafs.containerd.connection import CALL_S, Connection
from cafs.containerd.errors import AlreadyThereError, BusyError
from cafs.containerd.labels import changed
from cafs.errors import CafsError, DeadlineError, NotFoundError, ProtocolError
from cafs.oci.descriptor import AnyBlob, Descriptor
from cafs.oci.media_types import IMAGE_CONFIGS, INDEXES, MANIFESTS, is_layer
from cafs.proto import content_pb2 as pb

_WRITE_S = 6 * 3600.0
"""Longer than any layer takes; each piece has its own deadline at its source."""
_PIECE_BYTES = 1 << 20
_OPEN_S = 20
"""It may have a busy disk; Ctrl-C waits for that, too."""
_ABORT_S = 5
_BUSY_PAUSE_S, _BUSY_PAUSE_MOST_S = 0.05, 2.0

Pieces = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens a blob at its source, as ``Repository.blob`` does."""


class Content:
    """The content store within one namespace."""

    def __init__(self, connection: Connection, lease: str | None = None) -> None:
        self._connection = connection
        self._service = connection.service(pb.DESCRIPTOR, "Content")
        self._lease = lease

    async def labels(self, blob: AnyBlob) -> dict[str, str] | None:
        """A blob's labels; None when it is not there."""
        try:
            info = await self._service.call("Info", pb.InfoRequest(digest=blob.digest), f"blob {blob.digest}")
        except NotFoundError:
            return None
        return dict(info.info.labels)

    async def add_labels(self, blob: AnyBlob, labels: Mapping[str, str]) -> None:
        """Set these labels and leave the others.

        Raises:
            NotFoundError: the blob is not there.
        """
        if labels:
            request = pb.UpdateRequest(
                info=pb.Info(digest=blob.digest, labels=labels),
                update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
            )
            await self._service.call("Update", request, f"labels of {blob.digest}", lease=self._lease)

    async def write(self, descriptor: Descriptor, content: bytes, labels: Mapping[str, str]) -> None:
        """Store a small blob with labels, in one message; one that is there gets those it lacks."""

        async def whole() -> None:
            upload = self._upload(descriptor)
            try:
                await upload.send(pb.COMMIT, content, labels)
            except BusyError as e:
                raise _LockedError(str(e)) from e
            finally:
                upload.end()

        await self._patiently(descriptor, labels, whole)

    async def write_stream(self, descriptor: Descriptor, source: Pieces, labels: Mapping[str, str]) -> bool:
        """Store a blob from a stream; answers False when it was there and nothing was read.

        While another client writes the same blob this waits for it. A write that fails or is cancelled leaves
        nothing behind.
        """
        return await self._patiently(descriptor, labels, lambda: self._stream(descriptor, source, labels))

    async def _patiently(
        self, descriptor: Descriptor, labels: Mapping[str, str], write: Callable[[], Awaitable[None]]
    ) -> bool:
        pause = _BUSY_PAUSE_S
        while True:
            try:
                await write()
            except AlreadyThereError:
                if (before := await self.labels(descriptor)) is not None:
                    await self.add_labels(descriptor, changed(labels, before))
                    return False
            except _LockedError:
                # The store cannot tell when the other writer is done: containerd's client asks again, too.
                # A containerd that is gone fails here.
                await self.labels(descriptor)
                await trio.sleep(pause)
                pause = min(2 * pause, _BUSY_PAUSE_MOST_S)
            else:
                return True

    async def _stream(self, descriptor: Descriptor, source: Pieces, labels: Mapping[str, str]) -> None:
        upload = self._upload(descriptor)
        opened = committed = False
        try:
            await self._open(upload)
            opened = True
            async with source() as pieces:
                async for piece in _large(pieces):
                    await upload.send(pb.WRITE, piece)
            await upload.send(pb.COMMIT, b"", labels)
            committed = True
        finally:
            upload.end()
            if opened and not committed:
                await self._abort(upload.ref)  # noqa: ASYNC102 - shielded, within a time limit, in there

    async def _open(self, upload: _Upload) -> None:
        """Not cancelled in the middle: then nobody would know whether the upload is ours to throw away."""
        try:
            with trio.fail_after(_OPEN_S, shield=True):
                await upload.send(pb.STAT)
        except BusyError as e:
            raise _LockedError(str(e)) from e
        except trio.TooSlowError as e:
            raise DeadlineError(f"containerd: {upload.what}: no answer within {_OPEN_S} s") from e

    def _upload(self, descriptor: Descriptor) -> _Upload:
        what = f"writing blob {descriptor.digest}"
        return _Upload(self._connection, self._service, descriptor, what, self._lease)

    async def _abort(self, ref: str) -> None:
        """Throw away what was written of an upload. Where that fails, it ends with the lease."""
        with trio.move_on_after(_ABORT_S, shield=True), suppress(CafsError):
            await self._service.call("Abort", pb.AbortRequest(ref=ref), f"giving up {ref}")

    async def read(self, blob: AnyBlob) -> bytes | None:
        """A small blob's bytes, not verified; None when it is not there."""
        if await self.labels(blob) is None:
            return None
        request = pb.ReadContentRequest(digest=blob.digest)
        pieces = await self._service.collect("Read", request, f"reading blob {blob.digest}", within_s=CALL_S)
        return b"".join([piece.data for piece in pieces])


async def _large(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth a message."""
    buffer = bytearray()
    async for piece in pieces:
        buffer += piece
        if len(buffer) >= _PIECE_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


class _LockedError(BusyError):
    """Another client writes this blob just now."""


class _Upload:
    """One stream of the method Write: a request, its answer, the next request."""

    def __init__(
        self, connection: Connection, service: Any, descriptor: Descriptor, what: str, lease: str | None
    ) -> None:
        self.ref = upload_ref(descriptor)
        self._connection = connection
        self._descriptor = descriptor
        self.what = what
        self._offset = 0
        self._requests: queue.SimpleQueue[pb.WriteContentRequest | None] = queue.SimpleQueue()
        self._call = service.stream("Write", self._feed(), lease=lease, within_s=_WRITE_S)

    def _feed(self) -> Iterator[pb.WriteContentRequest]:
        """Read by a thread of grpc's, until ``end``."""
        while (request := self._requests.get()) is not None:
            yield request

    async def send(
        self, action: pb.WriteAction, data: bytes = b"", labels: Mapping[str, str] | None = None
    ) -> None:
        """Send one request and wait for its answer."""
        self._requests.put(
            pb.WriteContentRequest(
                action=action,
                ref=self.ref,
                total=self._descriptor.size,
                expected=self._descriptor.digest,
                offset=self._offset,
                data=data,
                labels=labels or {},
            )
        )
        try:
            answer = await trio.to_thread.run_sync(next, self._call, None, abandon_on_cancel=True)
        except grpc.RpcError as e:
            raise self._connection.translated(e, self.what) from e
        if answer is None:
            raise ProtocolError(f"containerd: {self.what}: it ended the stream")
        self._offset += len(data)

    def end(self) -> None:
        """End the stream; also wakes a thread that still waits for an answer."""
        self._call.cancel()
        self._requests.put(None)


def upload_ref(descriptor: Descriptor) -> str:
    """The upload's name, as containerd's own client has it: who comes second waits for the first."""
    kind = descriptor.media_type
    if kind in INDEXES:
        return f"index-{descriptor.digest}"
    if kind in MANIFESTS:
        return f"manifest-{descriptor.digest}"
    if kind in IMAGE_CONFIGS:
        return f"config-{descriptor.digest}"
    return f"{'layer' if is_layer(kind) else 'unknown'}-{descriptor.digest}"
