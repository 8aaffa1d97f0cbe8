"""Jobs by REST, and hosts that are told of them over real gRPC, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from cafs.core.swarm.ids import task_id
from cafs.manager.jobs import ledger
from cafs.manager.replica import Pace
from cafs.proto import manager_pb2
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.postgres import Postgres

ANY = {"If-Match": "*"}
URL = "https://models.test/m.bin"


class Fleet:
    """Hosts with streams, that do what the test says."""

    def __init__(self, stack: ExitStack, manager: Manager) -> None:
        self._channel = stack.enter_context(channel_to(manager.ports.services))
        self._stack = stack

    def host(self, number: int, kind: int = manager_pb2.PEER, hostname: str = "") -> ServiceStream:
        stream = ServiceStream(self._channel, f"{number:032x}")
        self._stack.callback(stream.cancel)
        stream.hello(kind=kind, hostname=hostname or f"h{number}", address=f"10.1.2.{number}:7000")
        return stream


@pytest.fixture
def fleet(manager: Manager) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack, manager)


@pytest.fixture
def admin(manager: Manager) -> str:
    return manager.administrator()


def ordered(stream: ServiceStream, *job_ids: int) -> list[Any]:
    """Its orders, once they are those of these jobs."""
    while True:
        orders = list(stream.hear("orders").orders)
        if sorted(order.job_id for order in orders) == sorted(job_ids):
            return orders


def say(
    stream: ServiceStream,
    order: Any,
    progress: Any,
    done: int = 0,
    total: int = 0,
    why: str = "",
    result: bytes = b"",
) -> None:
    report = manager_pb2.OrderReport(
        job_id=order.job_id,
        attempt=order.attempt,
        progress=progress,
        done_bytes=done,
        total_bytes=total,
        why=why,
        result=result,
    )
    stream.say(order_report=report)


def make(manager: Manager, token: str, code: int = 201, **more: Any) -> Any:
    body = {"kind": "preheat_file", "cluster_id": 1, "spec": {"url": URL}, **more}
    return manager.call("POST", "/jobs", token, code, json=body)


def job(manager: Manager, token: str, number: int) -> Any:
    return manager.call("GET", f"/jobs/{number}", token)


def state(manager: Manager, token: str, number: int) -> str:
    return str(job(manager, token, number)["state"])


def events(manager: Manager, token: str, number: int) -> list[str]:
    return [event["what"] for event in manager.call("GET", f"/jobs/{number}/events", token)["items"]]


def test_hosts_are_told_do_it_and_the_job_succeeds(manager: Manager, admin: str, fleet: Fleet) -> None:
    one, two = fleet.host(1), fleet.host(2)
    fleet.host(3, manager_pb2.PROXY)
    spec = {
        "url": URL,
        "digest": "sha256:" + "1" * 64,
        "tag": "t",
        "headers": [{"name": "X-A", "value": "b"}],
    }
    number = make(manager, admin, spec=spec)["id"]
    [order] = ordered(one, number)
    assert (order.file.url, order.file.digest, order.file.tag, order.file.priority) == (
        URL, "sha256:" + "1" * 64, "t", 3,
    )  # fmt: skip
    assert [(header.name, header.value) for header in order.file.headers] == [("X-A", "b")]
    say(one, order, manager_pb2.DOING, 5, 10)
    until(lambda: job(manager, admin, number)["done_bytes"] == 5)
    assert job(manager, admin, number)["hosts"]["told"] == 2
    say(one, order, manager_pb2.DONE, 10, 10)
    ordered(one)
    say(two, ordered(two, number)[0], manager_pb2.DONE, 10, 10)
    until(lambda: state(manager, admin, number) == "succeeded")
    found = job(manager, admin, number)
    assert (found["hosts"]["succeeded"], found["done_bytes"], found["total_bytes"]) == (2, 20, 20)
    parts = manager.call("GET", f"/jobs/{number}/hosts", admin)["items"]
    assert [(part["hostname"], part["state"], part["attempt"]) for part in parts] == [
        ("h1", "succeeded", 1), ("h2", "succeeded", 1),
    ]  # fmt: skip
    assert events(manager, admin, number) == ["created", "began", "succeeded"]
    audit = manager.call("GET", "/audit", admin)["items"]
    assert ("job.create", f"job {number} preheat_file") in [(row["action"], row["thing"]) for row in audit]


def test_no_more_hosts_at_once_than_wanted(manager: Manager, admin: str, fleet: Fleet) -> None:
    streams = [fleet.host(n) for n in range(1, 4)]
    number = make(manager, admin, concurrency=1)["id"]
    for stream in streams:
        [order] = ordered(stream, number)
        assert job(manager, admin, number)["hosts"]["told"] == 1
        say(stream, order, manager_pb2.DONE)
    until(lambda: state(manager, admin, number) == "succeeded")


def test_a_host_that_fails_is_told_again_and_then_by_hand(manager: Manager, admin: str, fleet: Fleet) -> None:
    host = fleet.host(1)
    number = make(manager, admin, retries=1)["id"]
    for attempt in (1, 2):
        [order] = ordered(host, number)
        while order.attempt < attempt:
            [order] = ordered(host, number)
        say(host, order, manager_pb2.FAILED, why=f"no {attempt}")
    until(lambda: state(manager, admin, number) == "failed")
    [part] = manager.call("GET", f"/jobs/{number}/hosts?state=failed", admin)["items"]
    assert (part["attempt"], part["why"]) == (2, "no 2")
    assert manager.ask("POST", f"/jobs/{number}/retry", admin).status_code == 428
    etag = manager.ask("GET", f"/jobs/{number}", admin).headers["ETag"]
    manager.call("POST", f"/jobs/{number}/retry", admin, headers={"If-Match": etag})
    stale = manager.ask("POST", f"/jobs/{number}/cancel", admin, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["type"]) == (409, "urn:cafs:problem:conflict")
    [order] = ordered(host, number)
    while order.attempt < 3:
        [order] = ordered(host, number)
    say(host, order, manager_pb2.DONE)
    until(lambda: state(manager, admin, number) == "succeeded")
    assert events(manager, admin, number) == [
        "created", "began", "host failed", "host failed", "failed", "retried", "succeeded",
    ]  # fmt: skip
    assert manager.ask("POST", f"/jobs/{number}/retry", admin, headers=ANY).json()["status"] == 409


def test_a_cancelled_job_is_told_no_more(manager: Manager, admin: str, fleet: Fleet) -> None:
    host = fleet.host(1)
    number = make(manager, admin)["id"]
    [order] = ordered(host, number)
    ended = manager.call("POST", f"/jobs/{number}/cancel", admin, headers=ANY)
    assert (ended["state"], ended["hosts"]["cancelled"]) == ("cancelled", 1)
    ordered(host)
    say(host, order, manager_pb2.DONE, 7, 7)  # too late
    again = make(manager, admin)["id"]
    say(host, ordered(host, again)[0], manager_pb2.DONE)
    until(lambda: state(manager, admin, again) == "succeeded")
    assert job(manager, admin, number)["hosts"]["cancelled"] == 1
    assert manager.ask("POST", f"/jobs/{number}/cancel", admin, headers=ANY).json()["status"] == 409


def test_a_host_that_comes_back_is_told_again(manager: Manager, admin: str, fleet: Fleet) -> None:
    host, other = fleet.host(1), fleet.host(2)
    number = make(manager, admin, concurrency=1)["id"]
    [order] = ordered(host, number)
    host.cancel()
    # Whoever is away has no place; so the next one has its turn.
    say(other, ordered(other, number)[0], manager_pb2.DONE)
    [again] = ordered(fleet_again := fleet.host(1), number)
    assert again == order
    say(fleet_again, again, manager_pb2.DONE)
    until(lambda: state(manager, admin, number) == "succeeded")


def test_what_is_not_done_in_time_has_failed(manager: Manager, admin: str, fleet: Fleet) -> None:
    host = fleet.host(1)
    number = make(manager, admin, timeout_s=1)["id"]
    ordered(host, number)
    until(lambda: state(manager, admin, number) == "failed")
    ordered(host)
    [part] = manager.call("GET", f"/jobs/{number}/hosts", admin)["items"]
    assert (part["state"], part["why"]) == ("failed", "not done within 1 s")


def test_scopes(manager: Manager, admin: str, fleet: Fleet) -> None:
    long = "h" * 255
    for n in range(1, 5):
        fleet.host(n, hostname=long if n == 4 else "")
    seed = fleet.host(9, manager_pb2.SEED)
    half = make(manager, admin, scope={"hosts": "percent", "percent": 50})["id"]
    named = make(manager, admin, scope={"hosts": "named", "names": ["h1", f"{2:032x}", long]})["id"]
    of_seeds = make(manager, admin, cluster_id=2)["id"]
    ordered(seed, of_seeds)
    until(lambda: job(manager, admin, half)["hosts"]["told"] == 2)
    until(lambda: job(manager, admin, named)["hosts"]["told"] == 3)
    refused = make(manager, admin, 422, scope={"hosts": "named", "names": ["h1", "nobody"]})
    assert refused["errors"] == [{"field": "body.scope.names", "message": "the cluster has no host nobody"}]


def test_every_kind_is_told_in_its_words(manager: Manager, admin: str, fleet: Fleet) -> None:
    host = fleet.host(1)
    kinds = {
        "preheat_image": {"image": "r.test/app:v1", "content": "start", "platforms": ["linux/arm64"]},
        "delete": {"url": URL + "#part", "tag": "t"},
        "sync": {},
        "gc": {"idle_s": 60},
    }
    numbers = [make(manager, admin, kind=kind, spec=spec)["id"] for kind, spec in kinds.items()]
    image, delete, sync, gc = sorted(ordered(host, *numbers), key=lambda order: order.job_id)
    assert image.image == manager_pb2.PreheatImage(
        image="r.test/app:v1", start_only=True, platforms=["linux/arm64"], priority=3
    )
    ids = [task_id(URL, tag="t", private=private) for private in (False, True)]
    assert delete.delete == manager_pb2.DeleteTasks(task_ids=ids, url=URL, tag="t")
    assert sync.WhichOneof("work") == "list"
    assert gc.collect.idle_s == 60
    say(host, sync, manager_pb2.DONE, result=b'{"tasks": 3, "held": []}')
    until(lambda: state(manager, admin, sync.job_id) == "succeeded")
    [part] = manager.call("GET", f"/jobs/{sync.job_id}/hosts", admin)["items"]
    assert part["result"] == {"tasks": 3, "held": []}
    [short] = manager.call("GET", f"/jobs/{sync.job_id}/hosts?results=false", admin)["items"]
    assert short == {**part, "result": None}


def test_a_host_is_told_a_bounded_number_at_once(manager: Manager, admin: str, fleet: Fleet) -> None:
    host = fleet.host(1)
    numbers = [make(manager, admin, kind="sync", spec={})["id"] for _ in range(20)]
    orders = ordered(host, *numbers[:16])
    for order in orders:
        say(host, order, manager_pb2.DONE)
    for order in ordered(host, *numbers[16:]):
        say(host, order, manager_pb2.DONE)
    until(lambda: all(state(manager, admin, number) == "succeeded" for number in numbers))


def test_any_length_that_an_origin_says_can_be_added_up(manager: Manager, admin: str, fleet: Fleet) -> None:
    hosts = [fleet.host(n) for n in range(1, 3)]
    number = make(manager, admin)["id"]
    for host in hosts:
        say(host, ordered(host, number)[0], manager_pb2.DOING, 7, (1 << 64) - 1)
    until(lambda: job(manager, admin, number)["done_bytes"] == 14)
    found = job(manager, admin, number)
    assert found["total_bytes"] == 2 * found["most_bytes"] > 1 << 40


def test_a_retry_is_one_of_so_many_at_once(
    manager: Manager, admin: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = make(manager, admin)["id"]
    until(lambda: state(manager, admin, failed) == "failed")
    monkeypatch.setattr(ledger, "MOST_ACTIVE", 1)
    fleet.host(1)
    under_way = make(manager, admin)["id"]
    refused = manager.call("POST", f"/jobs/{failed}/retry", admin, 409, headers=ANY)
    assert "1 jobs have not ended" in refused["detail"]
    manager.call("POST", f"/jobs/{under_way}/cancel", admin, headers=ANY)
    manager.call("POST", f"/jobs/{failed}/retry", admin, headers=ANY)


def test_a_job_for_nobody_fails(manager: Manager, admin: str) -> None:
    number = make(manager, admin)["id"]
    until(lambda: state(manager, admin, number) == "failed")
    assert job(manager, admin, number)["why"] == "no peer that is meant is here"
    manager.call("POST", f"/jobs/{number}/retry", admin, headers=ANY)
    until(lambda: events(manager, admin, number) == ["created", "failed", "retried", "failed"])


@pytest.mark.parametrize(
    "spec",
    [
        {"url": "https://user:hunter2@models.test/m"},
        {"url": "https://models.test/m?X-Amz-Signature=hunter2"},
        {"url": URL, "headers": [{"name": "Authorization", "value": "Bearer hunter2"}]},
        {"url": "http://169.254.169.254/latest"},
        {"url": "http://2852039166/latest"},
        {"url": "http://[::ffff:169.254.169.254]/latest"},
        {"url": "gopher://models.test/m"},
        {"url": "nothing"},
        {"url": URL, "digest": "sha256:1"},
        {"url": URL, "priority": 0},
        {"url": URL, "headers": [{"name": "X-A", "value": "b\r\nc: d"}]},
        {"url": URL, "unknown": 1},
    ],
)
def test_what_cannot_be_is_refused_and_not_repeated(tmp_path: Path, spec: Any) -> None:
    with running_manager(options_for(tmp_path)) as manager:
        admin = manager.administrator()
        answer = manager.ask(
            "POST", "/jobs", admin, json={"kind": "preheat_file", "cluster_id": 1, "spec": spec}
        )
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:cafs:problem:invalid")
        assert "hunter2" not in answer.text
        assert manager.call("GET", "/jobs", admin)["items"] == []


def test_roles_hold_in_their_clusters(manager: Manager, admin: str) -> None:
    manager.call("POST", "/clusters", admin, 201, json={"kind": "seed", "name": "theirs"})
    people = {}
    for name, cluster, role in (("op", 3, "operator"), ("eye", 3, "viewer"), ("far", 2, "operator")):
        people[name] = manager.person(admin, name)
        manager.call("PUT", f"/clusters/{cluster}/members/{name}", admin, 204, json={"role": role})
    number = make(manager, people["op"], cluster_id=3)["id"]
    for name, cluster, code in (("op", 1, 403), ("op", 999, 403), ("eye", 3, 403), ("far", 3, 403)):
        make(manager, people[name], code, cluster_id=cluster)
    make(manager, admin, 404, cluster_id=999)
    for name, looks, cancels in (("op", 200, (200, 409)), ("eye", 200, (403,)), ("far", 404, (404,))):
        listed = [found["id"] for found in manager.call("GET", "/jobs", people[name])["items"]]
        assert listed == ([number] if looks == 200 else [])
        for path in ("", "/hosts", "/events"):
            assert manager.ask("GET", f"/jobs/{number}{path}", people[name]).status_code == looks
        answer = manager.ask("POST", f"/jobs/{number}/cancel", people[name], headers=ANY)
        assert answer.status_code in cancels


def test_pages(manager: Manager, admin: str) -> None:
    made = [make(manager, admin)["id"] for _ in range(5)]
    page = manager.call("GET", "/jobs?limit=2", admin)
    assert [found["id"] for found in page["items"]] == made[:2:-1]
    rest = manager.call("GET", f"/jobs?before={page['next']}", admin)
    assert ([found["id"] for found in rest["items"]], rest["next"]) == (made[2::-1], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"progress": 99},
        {"progress": manager_pb2.DOING, "job_id": 1 << 40},
        {"progress": manager_pb2.FAILED, "why": "x" * 1001},
        {"progress": manager_pb2.FAILED, "why": "a\nb"},
        {"progress": manager_pb2.DONE, "result": b"[]"},
        {"progress": manager_pb2.DONE, "result": b'{"a": "\\u0000"}'},
        {"progress": manager_pb2.DONE, "result": b'{"a": "\\ud800"}'},
        {"progress": manager_pb2.DONE, "result": b'{"a": 1e999}'},
        {"progress": manager_pb2.DONE, "result": b'{"a": NaN}'},
        {"progress": manager_pb2.DONE, "result": b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}"},
        {"progress": manager_pb2.DONE, "result": b'{"a": "' + b"x" * 50_000 + b'"}'},
    ],
)
def test_a_malformed_report_ends_the_stream(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with running_manager(options_for(tmp_path)) as manager, channel_to(manager.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        stream.say(order_report=manager_pb2.OrderReport(**wrong))
        assert stream.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_another_replica_goes_on(tmp_path: Path, postgres: Postgres) -> None:
    """Hosts are at one replica, the job is made at the other; then the first one ends."""
    pace = Pace(beat_s=0.1)
    options = options_for(tmp_path, postgres.url(postgres.new_database()), pace=pace)
    with running_manager(options) as second, ExitStack() as stack:
        with running_manager(options) as first:
            admin = first.administrator()
            here, gone = Fleet(stack, second), Fleet(stack, first)
            one, two = here.host(1), gone.host(2)
            number = make(first, admin)["id"]
            [order], [other] = ordered(one, number), ordered(two, number)
            say(one, order, manager_pb2.DONE)
            say(two, other, manager_pb2.DOING, 1, 2)
            until(lambda: job(second, admin, number)["hosts"]["succeeded"] == 1)
        again = here.host(2)
        assert ordered(again, number) == [other]
        say(again, other, manager_pb2.DONE)
        until(lambda: state(second, admin, number) == "succeeded")
