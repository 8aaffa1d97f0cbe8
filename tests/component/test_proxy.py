"""The proxy against an origin in this process: what passes, what is refused, what is broken off."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import AsyncIterator

import pytest
import trio

from cafs.errors import NotFoundError
from cafs.p2p.content import Content, Wish
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S
from tests.support.proxying import Asked, Origin, RunningProxy, Told, ask, read_all, run_proxy, serve_origin

BODY = os.urandom(3 << 20)
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
BLOB = f"/v2/team/app/blobs/{DIGEST}"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serve_origin() as served:
        yield served


@pytest.fixture
async def proxy() -> AsyncIterator[RunningProxy]:
    async with run_proxy() as running:
        yield running


async def test_a_request_passes_with_what_is_the_clients(origin: Origin, proxy: RunningProxy) -> None:
    origin.page("/x", b"hello", etag='"e"', x_thing="1")
    told = await proxy.get(
        f"{origin.url}/x?q=1", ("Authorization", "Bearer t"), ("Proxy-Authorization", "Basic no"),
        ("X-Mine", "2"), ("Connection", "x-hop"), ("X-Hop", "3"), ("X-Cafs-Use", "direct"),
    )  # fmt: skip
    assert (told.status, told.body) == (200, b"hello")
    assert (told.headers["etag"], told.headers["x-thing"]) == ('"e"', "1")
    (asked,) = origin.asked
    assert asked.target == "/x?q=1"
    assert asked.headers["host"] == origin.host
    assert asked.headers["authorization"] == "Bearer t"
    assert asked.headers["x-mine"] == "2"
    assert not {"proxy-authorization", "x-hop", "x-cafs-use", "connection"} & asked.headers.keys()


async def test_a_small_answer_leaves_in_one_packet(origin: Origin, proxy: RunningProxy) -> None:
    origin.page("/x", b"hello")
    async with await proxy.connect() as client:
        await client.send_all(f"GET {origin.url}/x HTTP/1.1\r\nHost: {origin.host}\r\n\r\n".encode())
        assert (await client.receive_some()).endswith(b"\r\n\r\nhello")


async def test_bodies_go_up_whole(origin: Origin, proxy: RunningProxy) -> None:
    origin.pages["/up"] = lambda asked: Told(201, {"location": "/up/1"}, hashlib.sha256(asked.body).digest())
    told = await proxy.get(f"{origin.url}/up", ("Expect", "100-continue"), method="PUT", body=BODY)
    assert (told.status, told.body, told.headers["location"]) == (201, hashlib.sha256(BODY).digest(), "/up/1")
    raw = (
        f"POST {origin.url}/up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    answer = await proxy.say(raw.encode() + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
    assert answer.endswith(hashlib.sha256(b"abcde").digest())


async def test_an_origin_may_refuse_a_body_early(origin: Origin, proxy: RunningProxy) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def refuse(stream: trio.SocketStream) -> None:
            await stream.receive_some(1000)
            await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch")
            await stream.receive_some(1)

        await nursery.start(trio.serve_listeners, refuse, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        async with await proxy.connect() as stream:
            await stream.send_all(
                f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".encode()
            )
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 413")
        nursery.cancel_scope.cancel()


async def test_one_connection_carries_many_requests(origin: Origin, proxy: RunningProxy) -> None:
    for number in range(3):
        origin.page(f"/{number}", b"%d" % number)
    async with await proxy.connect() as stream:
        for number in range(3):
            assert (await ask(stream, "GET", f"{origin.url}/{number}")).body == b"%d" % number
        for number in range(3):
            option = "close" if number == 2 else "keep-alive"
            head = f"GET {origin.url}/{number} HTTP/1.1\r\nHost: x\r\nConnection: {option}\r\n\r\n"
            await stream.send_all(head.encode())
        answers = await read_all(stream)
    assert answers.count(b"HTTP/1.1 200") == 3


async def test_head_and_errors_pass_whole(origin: Origin, proxy: RunningProxy) -> None:
    origin.page("/x", b"hello")
    told = await proxy.get(f"{origin.url}/x", method="HEAD")
    assert (told.status, told.headers["content-length"], told.body) == (200, "5", b"")
    for status in (401, 403, 404, 429, 500, 503):
        challenge = 'Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull"'
        body = b'{"errors":[{"code":"NO"}]}'
        for path in ("/e", BLOB):
            origin.page(
                path,
                body,
                status,
                retry_after="7",
                www_authenticate=challenge,
                content_type="application/json",
            )
            told = await proxy.get(f"{origin.url}{path}")
            assert (told.status, told.body) == (status, body)
            assert (told.headers["retry-after"], told.headers["www-authenticate"]) == ("7", challenge)


async def test_redirects_are_the_clients_except_for_content(origin: Origin, proxy: RunningProxy) -> None:
    origin.page("/to", b"", 302, location="/there")
    told = await proxy.get(f"{origin.url}/to")
    assert (told.status, told.headers["location"]) == (302, "/there")
    async with serve_origin() as storage:
        storage.page("/data", BODY)
        origin.page(BLOB, b"", 307, location=f"{storage.url}/data")
        told = await proxy.get(f"{origin.url}{BLOB}", ("Authorization", "Bearer t"), ("Cookie", "c=1"))
        assert told.body == BODY
        assert not {"authorization", "cookie"} & storage.asked[0].headers.keys()
    origin.page(BLOB, b"", 307, location=BLOB)
    told = await proxy.get(f"{origin.url}{BLOB}")
    assert (told.status, told.headers["x-cafs-error"]) == (502, "origin-failed")


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/", "http://[::1]:1/", "file:///etc/passwd", "http://u@h/"]
)
async def test_redirects_lead_nowhere_forbidden(origin: Origin, location: str) -> None:
    async with run_proxy(allow=(origin.host,)) as proxy:
        origin.page(BLOB, b"", 302, location=location)
        told = await proxy.get(f"{origin.url}{BLOB}")
        assert told.status in {403, 502}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"]
)
async def test_loopback_is_guarded_whatever_it_is_called(origin: Origin, host: str) -> None:
    port = origin.host.partition(":")[2]
    async with run_proxy(allow=()) as proxy:
        told = await proxy.get(f"http://{host}:{port}/x")
        assert told.status == 403
        assert "proxy_allow" in told.body.decode()
        answer = await proxy.say(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403")
    assert origin.asked == []


async def test_nor_is_a_peer_sent_there(origin: Origin) -> None:
    wishes: list[Wish] = []

    class Peer:
        async def open(self, wish: Wish) -> Content:
            wishes.append(wish)
            raise NotFoundError("not here")

    async with run_proxy(allow=(), distributor=Peer()) as proxy:
        for headers in ((), (("Authorization", "Bearer t"),)):
            told = await proxy.get(f"{origin.url}/x", ("X-Cafs-Use", "p2p"), *headers)
            assert told.status == 403
            assert "proxy_allow" in told.body.decode()
    assert wishes == []
    async with run_proxy(allow=(origin.host,), distributor=Peer()) as proxy:
        assert (await proxy.get(f"{origin.url}/x", ("X-Cafs-Use", "p2p"))).status == 404
        assert (await proxy.get("http://nowhere.invalid/x", ("X-Cafs-Use", "p2p"))).status == 404
    assert [wish.url for wish in wishes] == [f"{origin.url}/x", "http://nowhere.invalid/x"]


async def test_ranges_of_content(origin: Origin, proxy: RunningProxy) -> None:
    url = f"{origin.url}{BLOB}"
    size = len(BODY)
    for ranges in (True, False):
        origin.page(BLOB, BODY, etag='"v1"')
        if not ranges:
            origin.pages[BLOB] = lambda _: Told(200, {"etag": '"v1"'}, BODY)
        for header, first, last in (
            ("bytes=0-0", 0, 0), ("bytes=100-4000", 100, 4000), (f"bytes={size - 5}-", size - 5, size - 1),
            (f"bytes=7-{size + 100}", 7, size - 1), (f"bytes=0-{size - 1}", 0, size - 1),
        ):  # fmt: skip
            told = await proxy.get(url, ("Range", header))
            assert (told.status, told.headers["content-range"]) == (206, f"bytes {first}-{last}/{size}")
            assert told.body == BODY[first : last + 1]
        told = await proxy.get(url, ("Range", f"bytes={size}-"))
        assert (told.status, told.headers["content-range"]) == (416, f"bytes */{size}")
        told = await proxy.get(url, ("Range", "bytes=3-5"), ("If-Range", '"v1"'))
        assert (told.status, told.body) == (206, BODY[3:6])
        told = await proxy.get(url, ("Range", "bytes=3-5"), ("If-Range", '"v0"'))
        assert (told.status, told.body) == (200, BODY)
    origin.page(BLOB, BODY)
    assert (await proxy.get(url, ("Range", "bytes=-5"))).body == BODY[-5:]
    assert (await proxy.get(url, ("Range", "lines=1-5"))).body == BODY


async def test_conditions_on_content(origin: Origin, proxy: RunningProxy) -> None:
    origin.page(BLOB, BODY, etag='"v1"', last_modified="Sun, 06 Nov 1994 08:49:37 GMT")
    url = f"{origin.url}{BLOB}"
    told = await proxy.get(url, ("If-None-Match", '"v1"'))
    assert (told.status, told.headers["etag"], told.body) == (304, '"v1"', b"")
    assert (await proxy.get(url, ("If-Match", '"v0"'))).status == 412
    assert (await proxy.get(url, ("If-None-Match", '"v0"'))).body == BODY


@pytest.mark.parametrize("use", ["p2p", "direct"])
async def test_wrong_blobs_are_broken_off(
    origin: Origin, proxy: RunningProxy, expected_logs: ExpectedLogs, use: str
) -> None:
    expected_logs.expect("does not have the digest")
    wrong = BODY[:-1] + bytes([BODY[-1] ^ 1])
    for headers in ({}, {"transfer-encoding": "chunked"}):
        origin.pages[BLOB] = lambda _, headers=headers: Told(200, headers, wrong)  # type: ignore[misc]  # of a lambda with a default
        told = await proxy.get(f"{origin.url}{BLOB}", ("X-Cafs-Use", use))
        assert not told.whole
        assert len(told.body) < len(BODY)


async def test_small_wrong_content_gets_an_honest_answer(origin: Origin, proxy: RunningProxy) -> None:
    origin.page("/x", b"not this")
    told = await proxy.get(f"{origin.url}/x", ("X-Cafs-Digest", DIGEST))
    assert (told.status, told.headers["x-cafs-error"]) == (502, "integrity")


async def test_content_that_ends_too_soon(
    origin: Origin, proxy: RunningProxy, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("broken off")
    origin.pages["/a.whl"] = lambda _: Told(200, {"content-length": str(len(BODY))}, BODY[:-9], whole=False)
    told = await proxy.get(f"{origin.url}/a.whl")
    assert not told.whole
    async with await proxy.connect() as stream:  # HTTP/1.0 has no other sign of the end than the end
        origin.pages["/a.whl"] = lambda _: Told(200, {"transfer-encoding": "chunked"}, b"abc", whole=False)
        await stream.send_all(f"GET {origin.url}/a.whl HTTP/1.0\r\n\r\n".encode())
        with pytest.raises(trio.BrokenResourceError):
            await _receive_to_the_end(stream)


async def _receive_to_the_end(stream: trio.SocketStream) -> None:
    while await stream.receive_some(1000):
        pass


async def test_rules(origin: Origin) -> None:
    origin.page("/secret", b"x")
    async with run_proxy(rules=("blocked /secret$", "p2p .")) as proxy:
        assert (await proxy.get(f"{origin.url}/secret")).status == 403
        told = await proxy.get(f"{origin.url}/secret", ("X-Cafs-Use", "p2p"))
        assert told.status == 403
    async with run_proxy(rules=("blocked ^https://127",)) as proxy:
        answer = await proxy.say(f"CONNECT {origin.host} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403")


HOSTILE = [
    (
        b"GET http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (b"GET http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400),
    (b"GET http://h/ HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
    (b"GET http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
    (b"GET http://h/ HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    (b"GET http://h/ HTTP/1.1\r\n\r\n", 400),
    (b"GET http://h/ HTTP/1.1\nHost: h\n\n", 400),
    (b"GET http://h/\x00 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    (b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", 404),
    (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"TRACE http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 405),
    (b"CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"CONNECT http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET http://h/ HTTP/3.0\r\nHost: h\r\n\r\n", 505),
    (b"GET http://h/" + b"a" * 20000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
    (b"GET http://h/ HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 20000 + b"\r\n", 431),
    (b"GET http://h/ HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET http://nowhere.invalid/ HTTP/1.1\r\nHost: h\r\n\r\n", 502),
    (b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: h\r\n\r\n", 502),
]


@pytest.mark.parametrize(("raw", "status"), HOSTILE)
async def test_what_is_refused(proxy: RunningProxy, raw: bytes, status: int) -> None:
    async with await proxy.connect() as stream:
        await stream.send_all(raw)
        with trio.fail_after(PATIENCE_S):
            answer = bytes(await stream.receive_some(4096))
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"x-cafs-error: " in answer


async def test_a_refused_head_has_no_body_and_leaves_the_connection_fit(
    origin: Origin, proxy: RunningProxy
) -> None:
    origin.page("/f", b"content")
    following = f"GET {origin.url}/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    answer = await proxy.say(b"HEAD /nothing HTTP/1.1\r\nHost: h\r\n\r\n" + following)
    refused, _, rest = answer.partition(b"\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 404 ")
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert rest.endswith(b"content")


async def test_a_malformed_chunked_body(origin: Origin, proxy: RunningProxy) -> None:
    head = f"POST {origin.url}/up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    answer = await proxy.say(head + b"zz\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert origin.asked == []


async def test_a_loop_ends(origin: Origin) -> None:
    async with run_proxy() as proxy:
        told = await proxy.get(f"http://127.0.0.1:{proxy.port}/v2/?ns=127.0.0.1:{proxy.port}")
        assert told.status == 508


async def test_silent_origins(proxy: RunningProxy, expected_logs: ExpectedLogs) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def say_nothing(stream: trio.SocketStream) -> None:
            await trio.sleep_forever()

        await nursery.start(trio.serve_listeners, say_nothing, listeners)
        told = await proxy.get(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/")
        assert (told.status, told.headers["x-cafs-error"]) == (504, "origin-silent")
        nursery.cancel_scope.cancel()


async def test_tunnels_carry_both_directions_and_half_closes(proxy: RunningProxy) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def mirror(stream: trio.SocketStream) -> None:
            received = await read_all(stream)
            await stream.send_all(received[::-1])
            await stream.aclose()

        await nursery.start(trio.serve_listeners, mirror, listeners)
        target = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with await proxy.connect() as stream:
            await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly".encode())
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")
            await stream.send_all(BODY)
            await stream.send_eof()
            assert await read_all(stream) == BODY[::-1] + b"ylrae"
        nursery.cancel_scope.cancel()


async def test_mirror_of_registries(origin: Origin) -> None:
    origin.page("/v2/team/app/manifests/latest", b"{}", content_type="application/json")
    origin.page(BLOB, BODY)
    async with run_proxy(registry=origin.host) as proxy:
        told = await proxy.get("/v2/team/app/manifests/latest")
        assert told.body == b"{}"
        assert (await proxy.get(BLOB)).body == BODY
    async with run_proxy() as proxy:
        assert (await proxy.get(f"{BLOB}?ns={origin.host}")).body == BODY
        assert origin.asked[-1].target == BLOB
        assert (await proxy.get(BLOB, ("X-Cafs-Registry", origin.host))).body == BODY


async def test_mirror_of_a_site(origin: Origin) -> None:
    origin.page(
        "/org/m/resolve/main/f", b"", 302, location="http://cdn.invalid/f?sig=1", x_xet_hash="h", etag='"e"'
    )
    origin.page("/api/models", b"[]", link=f'<{origin.url}/api/models?cursor=2>; rel="next"')
    async with run_proxy(mirrors=(f"hub={origin.url}",)) as proxy:
        ours = ("Host", f"127.0.0.1:{proxy.port}")
        told = await proxy.get("/hub/org/m/resolve/main/f", ours, method="HEAD")
        assert (told.status, told.headers["etag"]) == (200, '"e"')
        assert not {"x-xet-hash", "location"} & told.headers.keys()
        origin.page("/old", b"", 307, location="/new")
        told = await proxy.get("/hub/old", ours)
        assert told.headers["location"] == f"http://127.0.0.1:{proxy.port}/hub/new"
        told = await proxy.get("/hub/api/models", ours)
        assert told.headers["link"] == f'<http://127.0.0.1:{proxy.port}/hub/api/models?cursor=2>; rel="next"'


async def test_a_client_that_leaves_harms_nobody(origin: Origin, proxy: RunningProxy) -> None:
    origin.page(BLOB, BODY)
    for _ in range(5):
        async with await proxy.connect() as stream:
            await stream.send_all(f"GET {origin.url}{BLOB} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await stream.receive_some(1000)
    assert (await proxy.get(f"{origin.url}{BLOB}")).body == BODY


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_what_an_origin_leaves_of_a_body_is_nobodys_request(method: str) -> None:
    """Where bodies mean nothing some origins do not read them: the next client has its request there."""
    heads: list[list[bytes]] = []

    async def answer_heads(stream: trio.SocketStream) -> None:
        heads.append([])
        received = b""
        while data := await stream.receive_some(1 << 16):
            received += data
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                heads[-1].append(head)
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer_heads, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with run_proxy() as proxy:
            assert (await proxy.get(f"{url}/theirs", method=method, body=SMUGGLED)).status == 200
            assert (await proxy.get(f"{url}/mine")).status == 200
        nursery.cancel_scope.cancel()
    assert [each[0].partition(b" HTTP")[0] for each in heads] == [f"{method} /theirs".encode(), b"GET /mine"]


SMUGGLED = b"GET /others HTTP/1.1\r\nX: "
"""Without an end: what follows on the connection becomes part of it."""


async def test_a_range_of_nothing(origin: Origin, proxy: RunningProxy) -> None:
    origin.pages["/empty.bin"] = lambda _: Told(200, {"etag": '"v1"'}, b"")
    told = await proxy.get(f"{origin.url}/empty.bin", ("Range", "bytes=0-5"), ("X-Cafs-Use", "p2p"))
    assert (told.status, told.body) in {(200, b""), (416, b"")}
    assert "0--1" not in told.headers.get("content-range", "")


async def test_a_blob_is_asked_for_as_it_is(origin: Origin, proxy: RunningProxy) -> None:
    """What an origin packs for the way has another digest; registries behind nginx do that."""

    def answer(asked: Asked) -> Told:
        if "gzip" in asked.headers.get("accept-encoding", ""):
            return Told(200, {"content-encoding": "gzip"}, gzip.compress(BODY))
        return Told(200, {}, BODY)

    origin.pages[BLOB] = answer
    for use in ("direct", "p2p"):
        told = await proxy.get(
            f"{origin.url}{BLOB}", ("Accept-Encoding", "zstd, gzip;q=0.8"), ("X-Cafs-Use", use)
        )
        assert told.whole
        assert told.body == BODY
