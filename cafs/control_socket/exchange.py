"""One request and its answer as bytes, without any I/O: what both clients share. Pure, on h11."""

from __future__ import annotations

import h11

from cafs.control_socket.protocol import JSON_TYPE, MAX_ANSWER_BYTES
from cafs.errors import ProtocolError


class Exchange:
    """Made for one request; ``feed`` it what comes until it returns the answer."""

    def __init__(self, method: str, path: str, body: bytes = b"") -> None:
        self._connection = h11.Connection(our_role=h11.CLIENT)
        headers = [("Host", "mountd"), ("Content-Length", str(len(body))), ("Connection", "close")]
        if body:
            headers.append(("Content-Type", JSON_TYPE))
        request = h11.Request(method=method, target=path, headers=headers)
        events = [request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
        self.to_send = b"".join(self._connection.send(event) or b"" for event in events)
        self._status = 0
        self._pieces: list[bytes] = []
        self._seen = 0

    def feed(self, received: bytes) -> tuple[int, bytes] | None:
        """Take what was received (empty: the other side closed); status and body once all is there.

        Raises:
            ProtocolError: that is no HTTP, or too much of it.
            ConnectionResetError: closed in the middle: the request may be sent again.
        """
        try:
            self._connection.receive_data(received)
            while True:
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.Response):
                    self._status = event.status_code
                elif isinstance(event, h11.Data):
                    self._take(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return self._status, b"".join(self._pieces)
                elif isinstance(event, h11.ConnectionClosed):
                    raise ConnectionResetError("closed before an answer came")
        except h11.RemoteProtocolError as e:
            if not received:
                raise ConnectionResetError("closed in the middle of an answer") from e
            raise ProtocolError(f"the mount server's answer is no HTTP: {e}") from e

    def _take(self, piece: bytes) -> None:
        self._seen += len(piece)
        if self._seen > MAX_ANSWER_BYTES:
            raise ProtocolError(f"the mount server's answer is longer than {MAX_ANSWER_BYTES} bytes")
        self._pieces.append(piece)
