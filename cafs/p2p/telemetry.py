"""OpenTelemetry, when the environment asks for it by its standard variables; the only place that knows it.

Not loaded otherwise. Its exporter has a thread of its own, and is given a moment at the end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from cafs.core.tracing import TRACEPARENT, UNTRACED, Span, Tracer

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

_LAST_SPANS_S = 3.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wanted_exporter(environ: Mapping[str, str]) -> str | None:
    """The name of the exporter that the environment asks for, None: no traces. Pure.

    Source: opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    name = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not name and any(environ.get(variable) for variable in _ENDPOINTS):
        name = "otlp"
    return None if name in {"", "none"} else name


@asynccontextmanager
async def tracing(service: str, environ: Mapping[str, str] = os.environ) -> AsyncIterator[Tracer]:
    """The tracer that the environment asks for, while the context lasts.

    Args:
        service: The name of the program, unless OTEL_SERVICE_NAME gives another.
        environ: Variables.
    """
    name = wanted_exporter(environ)
    provider = _provider(name, service, environ) if name is not None else None
    if provider is None:
        yield UNTRACED
        return
    try:
        yield OpenTelemetryTracer(provider)
    finally:
        with trio.move_on_after(_LAST_SPANS_S, shield=True):
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)


def _provider(name: str, service: str, environ: Mapping[str, str]) -> TracerProvider | None:
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        exporter = _exporter(name)
    except ModuleNotFoundError as e:
        log.warning(
            "traces are asked for by OTEL_ variables, and %s is missing: pip install 'cafs[otel]'", e.name
        )
        return None
    if exporter is None:
        log.warning("OTEL_TRACES_EXPORTER: %.40s is not known here (otlp, console, none): no traces", name)
        return None
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> SpanExporter | None:
    if name == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        return OTLPSpanExporter()
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    return None


class OpenTelemetryTracer:
    """See ``Tracer``."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._tracer = provider.get_tracer("cafs")
        self._propagator = TraceContextTextMapPropagator()

    def span(self, name: str, **attributes: str | int | bool) -> AbstractContextManager[Span]:
        """See ``Tracer``."""
        return self._begun(name, attributes, None)

    def continued(
        self, traceparent: str | None, name: str, **attributes: str | int | bool
    ) -> AbstractContextManager[Span]:
        """See ``Tracer``."""
        carrier = {} if traceparent is None else {TRACEPARENT: traceparent}
        return self._begun(name, attributes, self._propagator.extract(carrier))

    def headers(self) -> tuple[tuple[str, str], ...]:
        """See ``Tracer``."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple((name, value) for name, value in carrier.items() if name == TRACEPARENT)

    @contextmanager
    def _begun(
        self, name: str, attributes: Mapping[str, str | int | bool], context: Context | None
    ) -> Iterator[Span]:
        named = {f"cafs.{key}": value for key, value in attributes.items()}
        with self._tracer.start_as_current_span(
            name, context, attributes=named, record_exception=False, set_status_on_exception=False
        ) as begun:
            span = _OpenSpan(begun, self._trace.Status(self._trace.StatusCode.ERROR))
            try:
                yield span
            except Exception as e:  # being cancelled is no failure
                span.fail(e)
                raise


class _OpenSpan:
    """See ``Span``."""

    def __init__(self, span: trace.Span, failed: trace.Status) -> None:
        self._span = span
        self._failed = failed

    def note(self, **attributes: str | int | bool) -> None:
        """See ``Span``."""
        for name, value in attributes.items():
            self._span.set_attribute(f"cafs.{name}", value)

    def fail(self, error: BaseException) -> None:
        """See ``Span``. A message may hold anything: it stays here."""
        self._span.set_status(self._failed)
        self._span.set_attribute("error.type", type(error).__name__)
