"""What services and the manager tell each other, built at random from its descriptors, through every parser.

It is read, or refused in the parser's own words; what gets through is bounded, what held before holds on.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.learning import MAX_BYTES, encode_bounded, merge_starts
from cafs.core.live.document import LiveConfig
from cafs.core.statistics.ledger import LONGEST_S, Ledger
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.reporting import Reporting
from cafs.errors import ProtocolError
from cafs.manager.jobs.orders import parse_order_report
from cafs.manager.services.incoming import parse_hello, parse_image, parse_report, parse_running
from cafs.manager.statistics.incoming import parse_figures
from cafs.manager.statistics.rows import Arrived, sums_of
from cafs.proto import manager_pb2
from tests.support.fuzzing import fuzzed, mutated
from tests.support.logs import ExpectedLogs
from tests.support.random_messages import messages
from tests.support.service_words import DOCUMENTS, FROM_SERVICES, TO_SERVICES


@fuzzed(1500)
@given(messages(manager_pb2.FromService, FROM_SERVICES))
def test_what_services_say(message: manager_pb2.FromService) -> None:
    with suppress(ProtocolError):
        arrival = parse_hello(message)
        told = (arrival.address, arrival.idc, arrival.location, arrival.cafs_version, arrival.place.hostname)
        assert all(len(text.encode()) <= 255 and text.isprintable() for text in told)
        assert not arrival.place.address.is_link_local
    with suppress(ProtocolError):
        assert len(parse_running(message.running).refused.encode()) <= 1000
    with suppress(ProtocolError):
        assert len(parse_image(message.profile_wish.held, may_lack=True)) in {0, 32}
    with suppress(ProtocolError):
        start = parse_report(message.start_report).start
        assert len(encode_bounded(merge_starts([start]))) <= MAX_BYTES
    with suppress(ProtocolError):
        figures = parse_figures(message.report)
        for row in sums_of([Arrived("a" * 32, 1, figures)] * 3, 1000).rows():
            assert all(number is None or number < 1 << 63 for number in row if not isinstance(number, str))
    with suppress(ProtocolError):
        job_id, word = parse_order_report(message.order_report)
        assert max(job_id, word.attempt) < 1 << 31
        assert len(json.dumps(word.result)) < 1 << 20


class Obeys:
    """A service with a configuration, on a disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "configuration.json"
        self.obeyed = [LiveConfig()]
        self.live = LiveConfiguration(self.path, "scheduler", self._obey)

    def _obey(self, live: LiveConfig) -> None:
        live.peer_limits(PeerLimits())
        self.obeyed.append(live)

    def take(self, told: manager_pb2.Configuration) -> manager_pb2.Running:
        return self.live.take(told)


_NUMBERS = st.integers() | st.floats() | st.sampled_from([1 << 50, 1 << 51, -1, 1e308, 10**300])
_TEXTS = st.text(max_size=9) | st.sampled_from(
    ["p2p (", "blocked \\pL{1000}", "\ud800", "x" * 2000, "a{1001}"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=6,
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """One that is right, with some of its values others."""
    document = json.loads(draw(st.sampled_from(DOCUMENTS)))

    def change(value: Any) -> Any:
        if not draw(st.integers(0, 5)):
            return draw(_VALUES)
        if isinstance(value, dict):
            more = draw(st.dictionaries(st.sampled_from(("peer", "tag", "url", "x")), _VALUES, max_size=1))
            return {name: change(each) for name, each in value.items()} | more
        return [change(each) for each in value] if isinstance(value, list) else value

    return json.dumps(change(document)).encode()


@fuzzed(300)
@given(
    st.lists(documents() | mutated(DOCUMENTS), min_size=1, max_size=3),
    messages(manager_pb2.Configuration, TO_SERVICES),
)
def test_configurations_that_are_pushed(
    tmp_path_factory: pytest.TempPathFactory,
    expected_logs: ExpectedLogs,
    pushed: list[bytes],
    told: manager_pb2.Configuration,
) -> None:
    """Refused with a word, or it holds, also over a restart; a good one is obeyed afterwards."""
    expected_logs.allow("configuration .* is refused")
    service = Obeys(tmp_path_factory.mktemp("live"))
    numbered = [
        manager_pb2.Configuration(cluster_id=1, version=number, document=document)
        for number, document in enumerate(pushed, 1)
    ]
    for message in (*numbered, told):
        before, held = len(service.obeyed), service.live.held
        said = service.take(message)
        if said.refused:
            assert len(said.refused) <= 1000
            assert (len(service.obeyed), service.live.held) == (before, held)
        assert (said.cluster_id, said.version) == (service.live.held.cluster_id, service.live.held.version)
    again = Obeys(service.path.parent)
    again.live.recall()
    if service.path.exists():
        assert again.live.held == service.live.held
        assert again.obeyed[-1].peer == service.obeyed[-1].peer
    good = manager_pb2.Configuration(cluster_id=1, version=99, document=DOCUMENTS[0])
    assert (service.take(good).version, service.obeyed[-1].peer["concurrent_uploads"]) == (99, 17)


@fuzzed(500)
@given(st.lists(messages(manager_pb2.Counted, TO_SERVICES | {"life": ["c" * 32]}), max_size=4))
def test_answers_to_reports(
    tmp_path_factory: pytest.TempPathFactory, answers: list[manager_pb2.Counted]
) -> None:
    """Nothing is counted twice or forgotten, and the next report is not put off for ever."""
    count = 0
    ledger = Ledger("c" * 32, lambda: {"requests": count})
    reporting = Reporting(ledger, tmp_path_factory.getbasetemp() / "none.json")
    counted = 0
    for told in answers:
        count += 5
        ledger.on_stream()
        said = reporting.due()
        assert said is not None
        reporting.counted(told)
        if (told.life, told.number) == (said.report.life, said.report.number):
            counted += said.report.all.requests
        assert reporting.due_in() <= 4 * LONGEST_S
    kept = ledger.kept()
    waiting = kept["waiting"]["amounts"]["requests"] if kept["waiting"] else 0
    assert counted + waiting + kept["rest"]["requests"] == count
