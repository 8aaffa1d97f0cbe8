"""A registry that misbehaves to order: an HTTP proxy in front of a real one.

Requests pass through unchanged and are recorded, unless a fault that was asked for fits:

    faulty.fail(Cut(after=1000), path="/blobs/", times=2)

The first fault whose method and path fit and that is not used up applies. Faults are seen from the
client's side of the wire; nothing of CAFS is patched.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.patience import PATIENCE_S

_PIECE = 64 << 10


@dataclass(frozen=True)
class Status:
    """Answer with an error of HTTP without asking the registry, e.g. 503, or 429 with Retry-After."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Stall:
    """Send the headers and ``after`` bytes of the body, then nothing, and keep the connection open."""

    after: int = 0
    headers: bool = True
    """False: not even the headers come."""


@dataclass(frozen=True)
class Cut:
    """Close the connection after ``after`` bytes of the body."""

    after: int = 0


@dataclass(frozen=True)
class FlipBit:
    """Turn over one bit of the body, counted from its start."""

    bit: int = 0


@dataclass(frozen=True)
class WrongLength:
    """Announce ``by`` bytes more (or fewer) than the body has, and send what there is."""

    by: int


@dataclass(frozen=True)
class IgnoreRange:
    """Answer a range request with 200 and the whole blob, as some registries and proxies do."""


@dataclass(frozen=True)
class OneRange:
    """Answer a request for several ranges with the first of them, as a server may."""


@dataclass(frozen=True)
class Slow:
    """Send the body at this many bytes a second."""

    bytes_per_s: int


@dataclass(frozen=True)
class ExpireToken:
    """Refuse the token or password that this request carries, from now on."""


Fault = Status | Stall | Cut | FlipBit | WrongLength | IgnoreRange | OneRange | Slow | ExpireToken


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int
    body_bytes: int
    """Sent to the client, as far as we got."""


@dataclass
class _Rule:
    fault: Fault
    method: str | None
    path: re.Pattern[str]
    left: int | None

    def fits(self, method: str, path: str) -> bool:
        used_up = self.left is not None and self.left <= 0
        return not used_up and self.method in (None, method) and self.path.search(path) is not None


class FaultyRegistry:
    """The proxy. Use as a context manager, or call ``stop``."""

    def __init__(self, upstream_host: str, address: str = "127.0.0.1") -> None:
        """Listen on a port of ``address`` and pass on to ``HOST:PORT``."""
        self.upstream_host = upstream_host
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._under_way = 0
        self._none_under_way = threading.Condition(self._lock)
        self._asked: list[str] = []
        self._asking = threading.Condition(self._lock)
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []
        self._expired: set[str] = set()
        self._challenge = ""
        self._server = _Server((address, 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.host = f"{address}:{self._server.server_port}"

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        return f"http://{self.host}"

    def fail(
        self, fault: Fault, *, path: str = "", method: str | None = "GET", times: int | None = None
    ) -> None:
        """Apply ``fault`` to requests whose path holds the regular expression; ``times`` None: for ever."""
        with self._lock:
            self._rules.append(_Rule(fault, method, re.compile(path), times))

    def heal(self) -> None:
        """Behave again."""
        with self._lock:
            self._rules.clear()
            self._expired.clear()

    @property
    def requests(self) -> list[Request]:
        """All requests that were answered so far, in the order in which their answers ended."""
        with self._lock:
            return list(self._requests)

    def forget(self) -> None:
        """Begin the record of requests anew, once all that came in are answered (see ``settled``)."""
        self.settled()
        with self._lock:
            self._requests.clear()
            self._asked.clear()

    def body_bytes(self, path: str = "", method: str = "GET") -> int:
        """Bytes sent to clients for requests whose path holds the regular expression."""
        fitting = (r for r in self.requests if r.method == method and re.search(path, r.path))
        return sum(request.body_bytes for request in fitting)

    def settled(self) -> list[Request]:
        """``requests`` once all that came in are answered: a client may have its answer a moment earlier."""
        with self._none_under_way:
            assert self._none_under_way.wait_for(lambda: not self._under_way, timeout=PATIENCE_S), (
                "still answering"
            )
            return list(self._requests)

    def wait_until_asked(self, path: str) -> None:
        """Until a request has come in whose path holds the regular expression, answered or not."""
        with self._asking:
            came = self._asking.wait_for(
                lambda: any(re.search(path, p) for p in self._asked), timeout=PATIENCE_S
            )
            assert came, f"nobody asked for {path}"

    def stop(self) -> None:
        """Let stalled requests go, close every connection and stop."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join(10)

    def __enter__(self) -> FaultyRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def choose(self, method: str, path: str, authorization: str | None) -> Fault | None:
        """The fault for one request; counts it as used."""
        with self._lock:
            self._under_way += 1
            self._asked.append(path)
            self._asking.notify_all()
            rule = next((rule for rule in self._rules if rule.fits(method, path)), None)
            if rule is not None and rule.left is not None:
                rule.left -= 1
            if rule is not None and isinstance(rule.fault, ExpireToken) and authorization:
                self._expired.add(authorization)
            if authorization in self._expired:
                return Status(401, {"WWW-Authenticate": self._challenge}, b"{}")
            return None if rule is None or isinstance(rule.fault, ExpireToken) else rule.fault

    def remember_challenge(self, challenge: str) -> None:
        """Keep what the registry itself says to those without credentials, to say the same."""
        with self._lock:
            self._challenge = challenge

    def record(self, request: Request) -> None:
        """Add one answered request."""
        with self._none_under_way:
            self._requests.append(request)
            self._under_way -= 1
            self._none_under_way.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # the client was first
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what is being tested; the traceback would be noise."""


def _handler(faulty: FaultyRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        registry = faulty

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: FaultyRegistry

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization")
        self.sent = 0
        self.status = 0
        fault = self.registry.choose(self.command, self.path, authorization)
        try:
            self._answer(fault)
        finally:
            self.registry.record(
                Request(
                    self.command, self.path, self.headers.get("Range"), authorization, self.status, self.sent
                )
            )

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _answer(self, fault: Fault | None) -> None:
        if isinstance(fault, Status):
            self._refuse(fault)
            return
        upstream = http.client.HTTPConnection(self.registry.upstream_host, timeout=60)
        try:
            self._pass_on(upstream, fault)
        finally:
            upstream.close()

    def _refuse(self, fault: Status) -> None:
        # What is left of the request would be taken for the next one.
        self.close_connection = True
        self.status = fault.code
        self.send_response(fault.code)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(fault.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(fault.body)

    def _pass_on(self, upstream: http.client.HTTPConnection, fault: Fault | None) -> None:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        upstream.request(
            self.command,
            self.path,
            body=self._chunked_body() if chunked else self._plain_body(),
            headers=self._headers_to_pass_on(fault),
            encode_chunked=chunked,
        )
        response = upstream.getresponse()
        if response.status == 401:
            self.registry.remember_challenge(response.headers.get("WWW-Authenticate", ""))
        if isinstance(fault, Stall) and not fault.headers:
            self.registry.closing.wait()
            return
        self._send_head(response, fault)
        if self.command != "HEAD":
            self._send_body(response, fault)

    def _headers_to_pass_on(self, fault: Fault | None) -> dict[str, str]:
        """Lines of one name are joined: skopeo accepts each media type on a line of its own."""
        names = {name.lower() for name in self.headers} - {"connection", "transfer-encoding"}
        passed = {name: ", ".join(self.headers.get_all(name, ())) for name in sorted(names)}
        if isinstance(fault, IgnoreRange):
            passed.pop("range", None)
        elif isinstance(fault, OneRange) and "range" in passed:
            passed["range"] = passed["range"].partition(",")[0]
        return passed

    def _plain_body(self) -> Iterator[bytes] | None:
        length = int(self.headers.get("Content-Length", 0))
        return self._pieces(length) if length else None

    def _pieces(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self.rfile.read(min(_PIECE, length))
            if not piece:
                raise ConnectionError("the client went away")
            length -= len(piece)
            yield piece

    def _chunked_body(self) -> Iterator[bytes]:
        while length := int(self.rfile.readline().split(b";")[0], 16):
            yield from self._pieces(length)
            self.rfile.readline()
        self.rfile.readline()

    def _send_head(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        self.status = response.status
        self.send_response_only(response.status, response.reason)
        announced = False
        for name, value in response.getheaders():
            if name.lower() == "content-length":
                announced = True
                self.send_header(name, str(int(value) + (fault.by if isinstance(fault, WrongLength) else 0)))
            elif name.lower() != "transfer-encoding":
                self.send_header(name, value)
        if not announced or isinstance(fault, Cut | WrongLength):
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_body(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        while piece := response.read(_PIECE):
            if isinstance(fault, Cut | Stall) and self.sent + len(piece) >= fault.after:
                self._send(piece[: fault.after - self.sent])
                if isinstance(fault, Stall):
                    self.registry.closing.wait()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if isinstance(fault, FlipBit) and self.sent <= fault.bit // 8 < self.sent + len(piece):
                piece = _flipped(piece, fault.bit - 8 * self.sent)
            if isinstance(fault, Slow):
                self._send_slowly(piece, fault.bytes_per_s)
            else:
                self._send(piece)

    def _send(self, piece: bytes) -> None:
        self.wfile.write(piece)
        self.wfile.flush()
        self.sent += len(piece)

    def _send_slowly(self, piece: bytes, bytes_per_s: int) -> None:
        step = max(bytes_per_s // 20, 1)
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            self._send(part)
            if self.registry.closing.wait(len(part) / bytes_per_s):
                return


def _flipped(piece: bytes, bit: int) -> bytes:
    changed = bytearray(piece)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
