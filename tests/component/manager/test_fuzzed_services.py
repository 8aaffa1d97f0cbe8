"""Services that say anything over real gRPC: the manager refuses them by name, and serves all others on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.learning import MAX_BYTES
from cafs.proto import manager_pb2
from tests.component.manager.test_statistics import AT_ONCE
from tests.support.fuzzing import fuzzed
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, end_of
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres
from tests.support.random_messages import random_message
from tests.support.relaying import RelayStream
from tests.support.service_words import FROM_SERVICES, IMAGE

SCHEDULER, ADDRESS = "5" * 32, "10.9.9.9:7100"
GOOD = "9" * 32
_NUMBERS = count(1)
_MOST_BYTES = MAX_BYTES + (128 << 10)
_REFUSALS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
}
"""That proto/manager.proto has for what services say."""


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Manager]:
    """On the database that is the stricter one."""
    address = postgres.url(postgres.new_database())
    with running_manager(options_for(tmp_path_factory.mktemp("fuzz"), address, pace=AT_ONCE)) as running:
        yield running


def words_of(rng: Random) -> list[bytes]:
    """What one service says: a right Hello most times, then anything."""
    hello = manager_pb2.Hello(
        protocol_version=1, host_id="a" * 32, kind=manager_pb2.PEER, address="10.0.0.7:1"
    )
    first = manager_pb2.FromService(hello=hello).SerializeToString()
    said = [random_message(rng, manager_pb2.FromService, FROM_SERVICES) for _ in range(rng.randint(1, 5))]
    words = [first] * (rng.random() < 0.7) + [message.SerializeToString() for message in said]
    words.insert(
        rng.randint(0, len(words)), rng.choice((b"\xff", words[0], rng.randbytes(rng.randint(1, 40))))
    )
    return [word for word in words if len(word) <= _MOST_BYTES]  # gRPC itself refuses more


def say_all(channel: grpc.Channel, method: str, words: list[bytes]) -> tuple[grpc.StatusCode, str]:
    """On a stream of its own, ended behind them; how it ended."""
    call = channel.stream_stream(f"/cafs.manager.v1.Manager/{method}", None, None)(
        iter(words), timeout=PATIENCE_S
    )
    return end_of(call)


def serves_on(channel: grpc.Channel) -> None:
    """A good service is taken in, and answered."""
    stream = ServiceStream(channel, GOOD)
    stream.hello()
    counts = manager_pb2.Counts(requests=1)
    stream.say(report=manager_pb2.Report(life="c" * 32, number=next(_NUMBERS), all=counts))
    stream.say(profile_wish=manager_pb2.ProfileWish(image=IMAGE))
    heard = {"counted", "learned_profile"}
    for message in stream.call:
        heard.discard(message.WhichOneof("message"))
        if not heard:
            break
    stream.say(leaving=manager_pb2.Leaving())
    assert stream.ended()[0] is grpc.StatusCode.OK


@fuzzed(40)
@given(st.integers(0, (1 << 63) - 1))
def test_services_that_say_anything(manager: Manager, seed: int) -> None:
    rng = Random(seed)
    with channel_to(manager.ports.services) as channel:
        for _ in range(5):
            code, why = say_all(channel, "Attach", words_of(rng))
            assert code in _REFUSALS, (code, why)
        serves_on(channel)


def relayed(rng: Random) -> list[bytes]:
    """What one scheduler passes on: streams of hosts that say anything, in any order."""
    usual = FROM_SERVICES | {"message": words_of(rng), "stream": [1, 2, 3, 4, 5], "code": [0, 3]}
    said = [random_message(rng, manager_pb2.FromScheduler, usual) for _ in range(rng.randint(1, 4))]
    for message in said:
        message.ClearField("relaying")
    return [message.SerializeToString() for message in said if message.ByteSize() <= _MOST_BYTES]


@fuzzed(40)
@given(st.integers(0, (1 << 63) - 1))
def test_schedulers_that_pass_on_anything(manager: Manager, seed: int) -> None:
    """What one host of a relay says ends no other host's stream, nor the relay."""
    rng = Random(seed)
    relaying = manager_pb2.Relaying(host_id=SCHEDULER, address=ADDRESS)
    first = manager_pb2.FromScheduler(relaying=relaying).SerializeToString()
    with channel_to(manager.ports.services) as channel:
        scheduler = ServiceStream(channel, SCHEDULER)
        scheduler.hello(kind=manager_pb2.SCHEDULER, address=ADDRESS)
        for _ in range(3):
            assert say_all(channel, "Relay", [first, *relayed(rng)])[0] is grpc.StatusCode.OK
        anybody = random_message(
            rng, manager_pb2.FromScheduler, {"host_id": [SCHEDULER], "address": [ADDRESS]}
        )
        assert say_all(channel, "Relay", [anybody.SerializeToString()])[0] in _REFUSALS
        relay = RelayStream(channel, SCHEDULER, ADDRESS)
        relay.taken()
        relay.hello(1, GOOD)
        relay.hear(1, "welcome")
        for message in relayed(rng):  # of others, on the same relay
            relay.send(
                *(word for word in manager_pb2.FromScheduler.FromString(message).words if word.stream > 1)
            )
        relay.say(1, profile_wish=manager_pb2.ProfileWish(image=IMAGE))
        relay.hear(1, "learned_profile")
        relay.cancel()


@pytest.mark.parametrize("method", ["Attach", "Relay"])
@pytest.mark.parametrize("first", ["nothing", "Hello"])
def test_bytes_that_are_no_message(manager: Manager, method: str, first: str) -> None:
    """Named to whoever says them; no mistake of the manager's, that its log had to tell."""
    hello = manager_pb2.Hello(
        protocol_version=1, host_id=SCHEDULER, kind=manager_pb2.SCHEDULER, address=ADDRESS
    )
    relaying = manager_pb2.Relaying(host_id=SCHEDULER, address=ADDRESS)
    right = {
        "Attach": manager_pb2.FromService(hello=hello),
        "Relay": manager_pb2.FromScheduler(relaying=relaying),
    }
    with channel_to(manager.ports.services) as channel:
        scheduler = ServiceStream(channel, SCHEDULER)
        scheduler.hello(kind=manager_pb2.SCHEDULER, address=ADDRESS)
        said = [right[method].SerializeToString()] if first == "Hello" else []
        code, why = say_all(channel, method, [*said, b"\xff"])
        assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "it is no message of this protocol")
        scheduler.cancel()  # which it is not while anybody refers to it


def test_a_relay_of_whom_no_database_can_know(manager: Manager) -> None:
    relaying = manager_pb2.Relaying(host_id="\0" * 32, address=ADDRESS)
    with channel_to(manager.ports.services) as channel:
        code, why = say_all(
            channel, "Relay", [manager_pb2.FromScheduler(relaying=relaying).SerializeToString()]
        )
        assert (code, "host_id" in why) == (grpc.StatusCode.INVALID_ARGUMENT, True)
