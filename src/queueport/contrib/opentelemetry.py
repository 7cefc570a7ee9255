"""OpenTelemetry: traces and metrics of jobs, by the semantic conventions for messaging.

Install it with `pip install 'queueport[otel]'`. Call `instrument` in a module that producers and workers import:

    from queueport.contrib.opentelemetry import instrument

    instrument()

Without an SDK, the calls of OpenTelemetry do nothing. An error in OpenTelemetry or in an exporter is logged; it affects
neither producers nor workers. `docs/telemetry.md` lists the spans and metrics.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from queueport import Event, Job, __version__, hooks
from queueport.context import CurrentJob, worker_queue
from queueport.errors import (
    BackendUnavailable,
    JobCancelled,
    JobTimeout,
    NeedsExtra,
    PayloadTooLarge,
    message_of,
    trace_of,
    traceback_of,
    type_of,
)
from queueport.hooks import Send
from queueport.spi.failures import FailureLog
from queueport.spi.url import hidden
from queueport.workers.attempt import Interrupted

with NeedsExtra("otel", __name__):
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider

__all__ = ["TraceIds", "instrument", "uninstrument"]

SYSTEM = "queueport"
"""The value of `messaging.system`: the ids and the names of queues are those of queueport, on every backend."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds of the histograms' buckets, in seconds, as the conventions recommend."""
FLUSH_TIMEOUT = 5.0
"""Maximum seconds that a worker that stops waits until its spans and its metrics are exported."""

Attributes = dict[str, str | int]

_failures = FailureLog(logging.getLogger("queueport"))
_installed = ExitStack()
"""Undoes what `instrument` has done."""


class TraceIds(logging.Filter):
    """A log filter that adds `trace_id` and `span_id` of the current span to log records, as hexadecimal text.

    `instrument` adds the filter to the handlers of the root logger. Add it to handlers that you make later:
    `handler.addFilter(TraceIds())`. Records outside a span do not get these attributes.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _ids(trace.get_current_span().get_span_context()).items():
            record.__dict__.setdefault(name, value)
        return True


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    child_of_producer: bool = False,
) -> None:
    """Make spans and metrics of all jobs that this process enqueues or runs. A second call replaces the first.

        instrument()

    Without `tracer_provider` and `meter_provider`, the global providers are used, also if they are set later. The span
    of an attempt begins a new trace, and has a link to the span of the producer. With `child_of_producer`, it is a
    child of the span of the producer, in the same trace.

    The processes of a worker import the module that calls `instrument`, so call it when that module is imported.
    Call it before you register hooks of `around_job` that need the span of the attempt.
    """
    uninstrument()
    telemetry = _Telemetry(tracer_provider, meter_provider, child_of_producer)

    def around(job: CurrentJob) -> _AttemptSpan:
        return _AttemptSpan(telemetry, job)

    def count(event: Event) -> None:
        telemetry.count(event)

    # The child processes of a worker import the `__module__` of each hook, which must call `instrument` there, too.
    around.__module__ = count.__module__ = sys._getframe(1).f_globals["__name__"]
    hooks.around_job(around)
    hooks.on_event(count)
    hooks.around_send = telemetry.send
    _installed.callback(hooks.remove, around)
    _installed.callback(hooks.remove, count)
    _installed.callback(setattr, hooks, "around_send", None)
    ids = TraceIds()
    for handler in logging.getLogger().handlers:
        handler.addFilter(ids)
        _installed.callback(handler.removeFilter, ids)


def uninstrument() -> None:
    """Undo `instrument`. Idempotent."""
    _installed.close()


class _Telemetry:
    """The tracer and the instruments, and what is measured with them."""

    def __init__(
        self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None, child_of_producer: bool
    ) -> None:
        self.tracer = trace.get_tracer("queueport", __version__, tracer_provider)
        self.child_of_producer = child_of_producer
        self._providers = (tracer_provider, meter_provider)
        meter = metrics.get_meter("queueport", __version__, meter_provider)
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Jobs that a producer tried to enqueue."
        )
        self._send_duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of the enqueue of one job or of several jobs.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Attempts that a worker has started."
        )
        self.process_duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of the code of an attempt.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._events = meter.create_counter(
            "messaging.queueport.events", "{event}", "Changes of jobs and workers, by the name of the event."
        )

    def count(self, event: Event) -> None:
        """Count an event. If a worker stops, export the rest now, because the process may end without an export."""
        attributes: Attributes = {
            "messaging.system": SYSTEM,
            "messaging.queueport.backend": event.backend,
            "messaging.queueport.event": event.name,
        }
        if event.queue is not None and event.task is not None:
            attributes |= {"messaging.destination.name": event.queue, "messaging.queueport.task": event.task}
        if event.error is not None:
            attributes["error.type"] = event.error.type
        self._events.add(1, attributes)
        if event.name == "worker_stopped":
            # in another thread, because the SDK may ignore the timeout of `force_flush`
            thread = threading.Thread(target=self._flush, name="queueport-flush", daemon=True)
            thread.start()
            thread.join(FLUSH_TIMEOUT)

    def _flush(self) -> None:
        traces, measures = self._providers
        for provider in (traces or trace.get_tracer_provider(), measures or metrics.get_meter_provider()):
            with _logged():
                flush = getattr(provider, "force_flush", None)
                if flush is not None:
                    flush()

    # -- producers ---------------------------------------------------------------------------------

    def send(self, jobs: Sequence[Job[Any]], backend: str, send: Send) -> list[Any]:
        """Send jobs inside a span. The headers of each job get the context of a span, unless they have one already."""
        if not jobs:
            return send(jobs)
        span: Span = trace.INVALID_SPAN
        sent, within = jobs, context.get_current()
        attributes = _attributes("enqueue", "send", backend, {job.queue for job in jobs})
        with _logged():
            span, sent = self._prepare(jobs, backend, attributes)
            within = trace.set_span_in_context(span)
        token = context.attach(within)
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            try:
                return send(sent)
            except PayloadTooLarge:  # raised before any I/O, perhaps because of the new headers
                if sent is jobs:
                    raise
                return send(jobs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            context.detach(token)
            with _logged():
                self._sent_jobs(jobs, attributes, time.perf_counter() - started, error)
            with _logged():
                _end(span, error)

    def _prepare(
        self, jobs: Sequence[Job[Any]], backend: str, attributes: Attributes
    ) -> tuple[Span, Sequence[Job[Any]]]:
        """Start the span of the enqueue. Returns it, and the jobs with its context.

        If there are several jobs, each of them also gets a span of its own, which ends at once, so that each has a
        context of its own.
        """
        if len(jobs) == 1 and not _produced(job := jobs[0]):
            span = self._start("enqueue", SpanKind.PRODUCER, {**attributes, **_of_job(job.id, job.task)})
            return span, [_injected(job, trace.set_span_in_context(span))]
        sent: list[Job[Any]] = []
        for job in jobs:
            if _produced(job):
                sent.append(job)
                continue
            about = _attributes("create", "create", backend, {job.queue})
            created = self._start("create", SpanKind.PRODUCER, {**about, **_of_job(job.id, job.task)})
            created.end()
            sent.append(_injected(job, trace.set_span_in_context(created)))
        more = _of_job(jobs[0].id, jobs[0].task) if len(jobs) == 1 else {"messaging.batch.message_count": len(jobs)}
        links = [link for job in sent for link in _produced(job)]
        return self._start("enqueue", SpanKind.CLIENT, {**attributes, **more}, links=links), sent

    def _start(
        self,
        operation: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        links: Sequence[Link] = (),
        parent: Context | None = None,
    ) -> Span:
        queue = attributes.get("messaging.destination.name")
        return self.tracer.start_span(
            operation if queue is None else f"{operation} {queue}", parent, kind, attributes, links
        )

    def _sent_jobs(
        self, jobs: Sequence[Job[Any]], attributes: Attributes, seconds: float, error: BaseException | None
    ) -> None:
        failed: Attributes = {} if error is None else {"error.type": type_of(error)}
        self._send_duration.record(seconds, {**attributes, **failed})
        if error is not None and not isinstance(error, BackendUnavailable):  # raised before any job was sent
            return
        accepted = set(error.accepted) if error is not None else {job.id for job in jobs}
        for (queue, good), number in Counter((job.queue, job.id in accepted) for job in jobs).items():
            about = {**attributes, "messaging.destination.name": queue, **({} if good else failed)}
            self._sent.add(number, about)

    # -- workers -----------------------------------------------------------------------------------

    def start_attempt(self, job: CurrentJob) -> tuple[Span, Context, Attributes]:
        """Start the span of an attempt. Returns it, the context of the attempt, and the attributes for metrics."""
        backend: str = getattr(worker_queue.get(None), "backend", "")
        attributes = _attributes("process", "process", backend, {job.queue})
        attributes["messaging.queueport.task"] = job.task
        about = {**attributes, **_of_job(job.id, job.task), "messaging.queueport.attempt": job.attempt}
        present = context.get_current()
        produced = propagate.extract(job.headers, present)
        links = _produced(job)
        parent = trace.set_span_in_context(trace.get_current_span(present), produced)
        if self.child_of_producer and links:
            links += _links(present)
            parent = produced
        span = self._start("process", SpanKind.CONSUMER, about, links=links, parent=parent)
        self.consumed.add(1, attributes)
        return span, trace.set_span_in_context(span, parent), attributes


class _AttemptSpan:
    """The span around the code of one attempt: a context manager for `around_job`."""

    def __init__(self, telemetry: _Telemetry, job: CurrentJob) -> None:
        self._telemetry = telemetry
        self._job = job
        self._span: Span | None = None

    def __enter__(self) -> None:
        with _logged():
            span, within, self._attributes = self._telemetry.start_attempt(self._job)
            self._token = context.attach(within)
            self._span = span
            self._started = time.perf_counter()
            self._job.log_fields = {**self._job.log_fields, **_ids(span.get_span_context())}

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._span is None:
            return
        context.detach(self._token)
        with _logged():
            failed: Attributes = {} if error is None else {"error.type": self._type_of(error)}
            seconds = time.perf_counter() - self._started
            self._telemetry.process_duration.record(seconds, {**self._attributes, **failed})
        with _logged():
            _end(self._span, error, None if error is None else self._type_of(error))

    def _type_of(self, error: BaseException) -> str:
        """The type of the error. If queueport has interrupted the attempt, the type says why."""
        if isinstance(error, Interrupted | asyncio.CancelledError):
            if self._job.cancel_requested:
                return f"{JobCancelled.__module__}.{JobCancelled.__qualname__}"
            if self._job.deadline is not None and datetime.now(UTC) >= self._job.deadline:
                return f"{JobTimeout.__module__}.{JobTimeout.__qualname__}"
        return type_of(error)


def _attributes(operation: str, kind: str, backend: str, queues: set[str]) -> Attributes:
    """The attributes of spans and metrics. The conventions want the name of the queue only if there is just one."""
    attributes: Attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.queueport.backend": backend,
    }
    if len(queues) == 1:
        (attributes["messaging.destination.name"],) = queues
    return attributes


def _of_job(job_id: str, task: str) -> Attributes:
    return {"messaging.message.id": job_id, "messaging.queueport.task": task}


def _injected(job: Job[Any], within: Context) -> Job[Any]:
    """The job with the context in its headers. Headers that the job has already stay."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, within)
    return replace(job, headers={**carrier, **job.headers}) if carrier else job


def _produced(job: Job[Any] | CurrentJob) -> list[Link]:
    """A link to the span whose context is in the headers of the job. Empty if there is none."""
    return _links(propagate.extract(job.headers, Context())) if job.headers else []


def _links(within: Context) -> list[Link]:
    """A link to the span of the context. Empty if the context has none."""
    found = trace.get_current_span(within).get_span_context()
    return [Link(found)] if found.is_valid else []


def _end(span: Span, error: BaseException | None, name: str | None = None) -> None:
    """End a span. `name` is the type of the error; default: the name of its class."""
    if error is not None:  # not `record_exception`, because the message of the error may raise anything
        name = type_of(error) if name is None else name
        text, lines = hidden(message_of(error)), hidden(traceback_of(error, trace_of(error)))
        span.add_event("exception", {"exception.type": name, "exception.message": text, "exception.stacktrace": lines})
        span.set_attribute("error.type", name)
        span.set_status(Status(StatusCode.ERROR, text))
    span.end()


def _ids(found: SpanContext) -> Mapping[str, str]:
    if not found.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(found.trace_id), "span_id": trace.format_span_id(found.span_id)}


@contextmanager
def _logged() -> Iterator[None]:
    """A context manager that logs an error in OpenTelemetry, and continues after its block."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # an SDK or an exporter may raise anything
        _failures.error(error, "OpenTelemetry raised an error, which affects neither job nor worker")
