"""The mount server's client for programs that wait: the command line, the doctor, tests."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from cafs.control_socket.exchange import Exchange
from cafs.control_socket.patience import (
    ANSWER_PATIENCE_S,
    AWAY_PATIENCE_S,
    describe_absence,
    pause_before,
    should_retry,
)
from cafs.control_socket.protocol import (
    LAYERS_PATH,
    METRICS_PATH,
    STATUS_PATH,
    AddedLayer,
    AddLayer,
    AwayError,
    layer_path,
    parse_added_layer,
    parse_answer,
    raise_failure,
)

_READ_BYTES = 64 << 10


class BlockingClient:
    """As ``client.MountServerClient``, waiting in the calling thread; the errors are the same."""

    def __init__(
        self,
        socket_path: Path,
        *,
        patience_s: float = ANSWER_PATIENCE_S,
        away_patience_s: float = AWAY_PATIENCE_S,
    ) -> None:
        self._path = str(socket_path)
        self._patience_s = patience_s
        self._away_patience_s = away_patience_s

    def add_layer(self, wanted: AddLayer) -> AddedLayer:
        """Have a layer shown as a file. Idempotent."""
        return parse_added_layer(parse_answer(self.ask("POST", LAYERS_PATH, wanted.encode())))

    def remove_layer(self, name: str) -> None:
        """Take a layer's file away. Idempotent: one that is not there is no error."""
        self.ask("DELETE", layer_path(name))

    def layers(self) -> list[dict[str, Any]]:
        """Every layer with what is here of it; the members are in docs/mountd.md."""
        return list(parse_answer(self.ask("GET", LAYERS_PATH))["layers"])

    def status(self) -> dict[str, Any]:
        """The server itself: where FUSE is mounted, process ids, memory."""
        return parse_answer(self.ask("GET", STATUS_PATH))

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self.ask("GET", METRICS_PATH)

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Any request; the answer's body."""
        began, attempt = time.monotonic(), 0
        while True:
            try:
                status, answer = self._ask_once(Exchange(method, path, body), began + self._patience_s)
                break
            except OSError as e:
                waited_s = time.monotonic() - began
                if waited_s >= self._patience_s or not should_retry(e, waited_s, self._away_patience_s):
                    raise AwayError(describe_absence(self._path, e)) from e
                attempt += 1
                time.sleep(pause_before(attempt))
        if not 200 <= status < 300:
            raise_failure(status, answer)
        return answer

    def _ask_once(self, exchange: Exchange, deadline: float) -> tuple[int, bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(self._path)
            connection.sendall(exchange.to_send)
            while (answer := exchange.feed(connection.recv(_READ_BYTES))) is None:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
            return answer
