"""Traces: one for a download, across hosts, with nothing secret in it; and none that nobody asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cafs.core.tracing import UNTRACED
from cafs.errors import CafsError
from cafs.p2p.content import OriginError, Wish
from cafs.p2p.telemetry import OpenTelemetryTracer, tracing, wanted_exporter
from tests.support.chunk_swarm import swarm, wish_for
from tests.support.fetching import MemoryLayer, ScriptedSource
from tests.support.grid import grid, until
from tests.support.logs import ExpectedLogs
from tests.support.program import ROOT
from tests.support.proxying import Origin, serve_origin

BODY = os.urandom((2 << 20) + 5)
SECRET = "s3cr3t"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serve_origin() as served:
        served.page("/path/f", BODY, etag='"1"')
        served.page("/path/no", SECRET.encode(), 403)
        yield served


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> OpenTelemetryTracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return OpenTelemetryTracer(provider)


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


async def test_a_download_is_one_trace_across_hosts(
    tmp_path: Path, origin: Origin, spans: InMemorySpanExporter, tracer: OpenTelemetryTracer
) -> None:
    async with grid(tmp_path) as hosts:
        hosts.tracer = tracer
        first = await hosts.host()
        wish = Wish(url=f"{origin.url}/path/f")
        assert await first.get(wish) == BODY
        [download] = await finished(spans, "cafs.download", 1)
        assert {parent_of(span) for span in named(spans, "cafs.source")} >= {id_of(download)}
        spans.clear()
        second = await hosts.host()
        assert await second.get(wish) == BODY
        [download] = await finished(spans, "cafs.download", 1)
        pieces = await finished(spans, "cafs.piece", 3)
        assert {parent_of(piece) for piece in pieces} == {id_of(download)}
        uploads = await finished(spans, "cafs.upload", 3)
        assert {parent_of(upload) for upload in uploads} == {id_of(piece) for piece in pieces}
        traces = {span.context.trace_id for span in (*pieces, *uploads, download) if span.context}
        assert len(traces) == 1


async def finished(spans: InMemorySpanExporter, name: str, count: int) -> list[ReadableSpan]:
    await until(lambda: len(named(spans, name)) >= count)
    return named(spans, name)


async def test_nothing_secret_is_told(
    tmp_path: Path, origin: Origin, spans: InMemorySpanExporter, tracer: OpenTelemetryTracer
) -> None:
    async with grid(tmp_path, scheduled=False) as hosts:
        hosts.tracer = tracer
        host = await hosts.host()
        with pytest.raises(OriginError):
            await host.get(Wish(url=f"{origin.url}/path/no?token={SECRET}"))
        secret = (("authorization", f"Bearer {SECRET}"),)
        address = origin.url.replace("http://", f"http://user:{SECRET}@")
        with pytest.raises(CafsError):
            await host.get(Wish(url=f"{address}/path/no?sig={SECRET}", headers=secret))
        reads = await finished(spans, "cafs.source", 2)
    for span in spans.get_finished_spans():
        text = span.to_json()
        assert SECRET not in text
        assert "/path" not in text
    assert {span.attributes["cafs.status"] for span in reads if span.attributes} == {403}
    assert {span.status.status_code for span in reads} == {StatusCode.ERROR}
    assert {span.attributes["error.type"] for span in reads if span.attributes} == {"OriginError"}
    assert all("traceparent" not in asked.headers for asked in origin.asked)


async def test_chunks_between_hosts(
    tmp_path: Path, spans: InMemorySpanExporter, tracer: OpenTelemetryTracer
) -> None:
    layer = MemoryLayer([64 << 10] * 8)
    async with swarm(tmp_path, ScriptedSource(layer.blob), 2, tracer=tracer) as (hosts, _):
        for host in hosts:
            assert None not in await host.exchange.bring(wish_for(layer))
        asked = await finished(spans, "cafs.chunks", 1)
        served = await finished(spans, "cafs.upload_chunks", 1)
        assert {parent_of(span) for span in served} <= {id_of(span) for span in asked}
        assert {parent_of(span) for span in asked} <= {id_of(s) for s in named(spans, "cafs.bring")}
        assert named(spans, "cafs.registry")


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "Console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_what_the_environment_asks_for(variables: dict[str, str], exporter: str | None) -> None:
    assert wanted_exporter(variables) == exporter


async def test_an_exporter_that_is_not_known(expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("OTEL_TRACES_EXPORTER: zipkin is not known here")
    async with tracing("x", {"OTEL_TRACES_EXPORTER": "zipkin"}) as tracer:
        assert tracer is UNTRACED


_PROGRAM = """
import json, sys, trio
sys.path.insert(0, sys.argv[1])
if sys.argv[3:] == ["missing"]:
    sys.modules["opentelemetry"] = None
import cafs.p2p.program
from cafs.p2p.telemetry import tracing
async def main():
    async with tracing("x") as tracer:
        print(json.dumps([type(tracer).__name__, "opentelemetry.sdk" in sys.modules]))
trio.run(main)
"""


@pytest.mark.parametrize(
    ("exporter", "missing", "tracer", "loaded", "said"),
    [
        ("", False, "Untraced", False, ""),
        ("console", False, "OpenTelemetryTracer", True, ""),
        ("console", True, "Untraced", False, "pip install 'cafs[otel]'"),
    ],
)
def test_it_is_loaded_only_when_asked_for(
    exporter: str, missing: bool, tracer: str, loaded: bool, said: str
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(ROOT), "x", *(["missing"] if missing else [])],
        env={**environ, "OTEL_TRACES_EXPORTER": exporter},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[0]) == [tracer, loaded]
    assert len(done.stderr.splitlines()) == bool(said)
    assert said in done.stderr
