"""Records the spans of worker processes in a file. For tests of telemetry, and for the workers that they start.

A worker that imports this module is instrumented if the environment variable QUEUEPORT_TEST_SPANS names a file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from queueport import Event, JobQueue, on_event, task
from queueport.contrib.opentelemetry import instrument, uninstrument
from queueport.testing.process import WorkerProcess

__all__ = [
    "Exporter",
    "Recorder",
    "check_the_trace_continues",
    "current_span",
    "current_span_async",
    "ids",
    "recording",
]

SPANS = "QUEUEPORT_TEST_SPANS"
ROOT = Path(__file__).parents[1]


class Exporter(SpanExporter):
    """Appends each span to a file, as a line of JSON."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._file.open("a") as lines:
            lines.writelines(json.dumps(json.loads(span.to_json(indent=None))) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


class Recorder:
    """The spans and metrics of this process."""

    def __init__(self, *processors: SpanProcessor) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        for processor in (*processors, SimpleSpanProcessor(self._spans)):
            self.tracer_provider.add_span_processor(processor)
        self.meter_provider = MeterProvider([self._reader])

    def spans(self, name: str) -> list[ReadableSpan]:
        """The spans with this name, in the order in which they ended."""
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def names(self) -> list[str]:
        """The names of all spans, in the order in which they ended."""
        return [span.name for span in self._spans.get_finished_spans()]

    def points(self, name: str) -> list[tuple[dict[str, Any], float, str | None]]:
        """The attributes, the value or the count, and the unit of each data point of a metric."""
        data = self._reader.get_metrics_data()
        found: list[tuple[dict[str, Any], float, str | None]] = []
        for resource in () if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        for point in metric.data.data_points:
                            value = getattr(point, "count", None)
                            value = getattr(point, "value", None) if value is None else value
                            assert value is not None
                            found.append((dict(point.attributes or {}), value, metric.unit))
        return found


@contextmanager
def recording(*processors: SpanProcessor, **options: bool) -> Iterator[Recorder]:
    """Instrument queueport in this process until the block ends."""
    recorder = Recorder(*processors)
    instrument(recorder.tracer_provider, recorder.meter_provider, **options)
    try:
        yield recorder
    finally:
        uninstrument()


def ids(span: ReadableSpan) -> tuple[str, str]:
    """The ids of a span's trace and of the span, as hexadecimal text."""
    found = span.get_span_context()
    assert found is not None
    return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)


def _current() -> tuple[str, str]:
    logging.getLogger("shop").warning("a line of the task")
    found = trace.get_current_span().get_span_context()
    return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)


@task(name="telemetry.current_span")
def current_span() -> tuple[str, str]:
    """Log a line, and return the ids of the current trace and span."""
    return _current()


@task(name="telemetry.current_span_async")
async def current_span_async() -> tuple[str, str]:
    """Do the same in an event loop."""
    return _current()


def check_the_trace_continues(queue: JobQueue, start: Callable[..., WorkerProcess], folder: Path) -> None:
    """Check that the span of an attempt is current in its task, has a link to the producer's span, and is exported, and
    that the worker calls the `on_event` hooks.

    `start` starts a worker with these environment variables. Its spans wait a minute before they are exported, or until
    the worker stops.
    """
    file = folder / "spans.jsonl"
    worker = start(**{SPANS: str(file), "QUEUEPORT_TASKS": __name__, "PYTHONPATH": str(ROOT)})
    with recording() as recorder:
        handles = [queue.enqueue(job) for job in (current_span, current_span_async)]
        seen = [handle.result(30) for handle in handles]
    assert worker.stop() == 0
    events = [json.loads(line) for line in _events_of(file).read_text().splitlines()]
    for handle in handles:
        assert [name for name, job_id, _ in events if job_id == handle.id] == ["started", "succeeded"]
    started, stopped = ([name for each, _, name in events if each == f"worker_{end}"] for end in ("started", "stopped"))
    assert sorted(started) == sorted(stopped) == sorted({*started})
    assert {name for each, _, name in events if each == "succeeded"} <= {*started}
    found = {
        span["attributes"]["messaging.queueport.task"]: span for span in map(json.loads, file.read_text().splitlines())
    }
    names = (current_span.name, current_span_async.name)
    for produced, (trace_id, span_id), name in zip(recorder.spans("enqueue default"), seen, names, strict=True):
        span = found[name]
        assert span["name"] == "process default"
        assert span["kind"] == "SpanKind.CONSUMER"
        assert (span["context"]["trace_id"], span["context"]["span_id"]) == (f"0x{trace_id}", f"0x{span_id}")
        (link,) = [link["context"] for link in span["links"]]
        assert (link["trace_id"][2:], link["span_id"][2:]) == ids(produced)


def _events_of(spans: Path) -> Path:
    return spans.with_suffix(".events")


if SPANS in os.environ:

    @on_event
    def note(event: Event) -> None:
        """Append the event to a file."""
        with _events_of(Path(os.environ[SPANS])).open("a") as file:
            file.write(json.dumps([event.name, event.job_id, event.worker]) + "\n")

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Exporter(Path(os.environ[SPANS])), schedule_delay_millis=60_000))
    instrument(provider)
