"""OpenTelemetry: spans, contexts in headers, metrics and trace ids in logs, with the exporters of its SDK."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from queueport import AsyncJobQueue, JobQueue, JobState, Retry, Task, around_job, current_job, get_queue, hooks, task
from queueport.capability import Limits
from queueport.contrib.opentelemetry import TraceIds, instrument, uninstrument
from queueport.errors import BackendUnavailable, JobFailed, PayloadTooLarge
from queueport.spi.failures import FailureLog
from queueport.spi.message import Message
from queueport.testing.tasks import echo
from queueport.testing.waiting import eventually
from tests.telemetry import Recorder, current_span, current_span_async, ids, recording

ROOT = Path(__file__).parents[2]
GIVEN = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
"""The context that a caller has put into the headers of its job."""


class SocketClosed(Exception):
    """An error of the application whose message cannot be read."""

    def __str__(self) -> str:
        raise SystemExit


@task(name="telemetry.fail")
def fail(attempts: int) -> int:
    """Fail in the first attempts."""
    if current_job().attempt <= attempts:
        raise ConnectionError("no answer")
    return current_job().attempt


@task(name="telemetry.connect", retry=Retry(max_attempts=1))
def connect(url: str) -> None:
    raise ConnectionError(f"{url} refuses")


@task(name="telemetry.unreadable")
def unreadable() -> None:
    """Raise an error whose message cannot be read."""
    raise SocketClosed


@task(name="telemetry.spin")
def spin(seconds: float) -> None:
    """Run Python code for this time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@task(name="telemetry.headers")
def headers() -> dict[str, Any]:
    """Return the headers, and what the baggage says of the user."""
    return {**current_job().headers, "user": baggage.get_baggage("user")}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as made:
        yield made


@pytest.fixture(params=["memory://", "sqlite:///{}/jobs.db"], ids=["memory", "sqlite"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    with get_queue(request.param.format(tmp_path)) as queue:
        yield queue


def linked(span: ReadableSpan) -> list[tuple[str, str]]:
    """The ids of the traces and spans to which a span has links."""
    return [
        (trace.format_trace_id(link.context.trace_id), trace.format_span_id(link.context.span_id))
        for link in span.links
    ]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("job", [current_span, current_span_async], ids=["plain", "async"])
def test_the_span_of_an_attempt_is_current_in_its_task_and_has_a_link_to_the_producer(
    queue: JobQueue, recorder: Recorder, job: Task[[], tuple[str, str], Any]
) -> None:
    with queue.worker(tasks=[job]), recorder.tracer_provider.get_tracer("shop").start_as_current_span("request"):
        handle = queue.enqueue(job)
        seen = handle.result(10)
        eventually(lambda: recorder.spans("process default"))
    (produced,), (consumed,) = recorder.spans("enqueue default"), recorder.spans("process default")
    (request,) = recorder.spans("request")
    common = {
        "messaging.system": "queueport",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "messaging.queueport.backend": queue.backend,
        "messaging.queueport.task": job.name,
    }
    assert (produced.kind, consumed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    operation, kind = "messaging.operation.name", "messaging.operation.type"
    assert attributes(produced) == {**common, operation: "enqueue", kind: "send"}
    attempt = {operation: "process", kind: "process", "messaging.queueport.attempt": 1}
    assert attributes(consumed) == {**common, **attempt}
    assert produced.parent is not None
    assert trace.format_span_id(produced.parent.span_id) == ids(request)[1]
    assert consumed.parent is None
    assert tuple(seen) == ids(consumed)
    assert linked(consumed) == [ids(produced)]
    assert ids(consumed)[0] != ids(produced)[0]
    assert {span.status.status_code for span in (produced, consumed)} == {StatusCode.UNSET}


def test_an_attempt_can_be_a_child_of_the_producers_span(queue: JobQueue) -> None:
    with recording(child_of_producer=True) as recorder, queue.worker(tasks=[current_span]):
        seen = queue.enqueue(current_span).result(10)
        eventually(lambda: recorder.spans("process default"))
    (produced,), (consumed,) = recorder.spans("enqueue default"), recorder.spans("process default")
    assert consumed.parent is not None
    assert trace.format_span_id(consumed.parent.span_id) == ids(produced)[1]
    assert tuple(seen) == ids(consumed)
    assert ids(consumed)[0] == ids(produced)[0]
    assert linked(consumed) == [ids(produced)]


def test_each_attempt_has_a_span_with_its_number_and_its_error(queue: JobQueue, recorder: Recorder) -> None:
    with queue.worker(tasks=[fail]):
        assert queue.enqueue(fail.using(retry=Retry(max_attempts=3, initial=0.01)).job(2)).result(10) == 3
    (produced,), spans = recorder.spans("enqueue default"), recorder.spans("process default")
    assert [attributes(span)["messaging.queueport.attempt"] for span in spans] == [1, 2, 3]
    assert [attributes(span).get("error.type") for span in spans] == ["ConnectionError", "ConnectionError", None]
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert spans[0].status.description == "no answer"
    (event,) = spans[0].events
    assert event.name == "exception"
    assert dict(event.attributes or {})["exception.type"] == "ConnectionError"
    assert "in fail" in str(dict(event.attributes or {})["exception.stacktrace"])
    assert [linked(span) for span in spans] == [[ids(produced)]] * 3


def test_passwords_of_urls_are_hidden_in_spans(queue: JobQueue, recorder: Recorder) -> None:
    with queue.worker(tasks=[connect]):
        queue.enqueue(connect, "redis://:hunter2@host")
        (span,) = eventually(lambda: recorder.spans("process default"))
    assert span.status.description == "redis://:***@host refuses"
    assert "hunter2" not in str(dict(span.events[0].attributes or {}))


def test_an_error_that_cannot_be_read_is_in_the_span(queue: JobQueue, recorder: Recorder) -> None:
    handle = queue.enqueue(unreadable.using(retry=Retry(max_attempts=1)).job())
    with queue.worker(tasks=[unreadable]), pytest.raises(JobFailed, match="SocketClosed"):
        handle.result(10)
    (span,) = recorder.spans("process default")
    assert attributes(span)["error.type"].endswith("SocketClosed")


def test_the_span_of_an_interrupted_attempt_says_why(queue: JobQueue, recorder: Recorder) -> None:
    late = queue.enqueue(spin.using(timeout=0.2, retry=Retry(max_attempts=1)).job(30.0))
    stopped = queue.enqueue(spin, 30.0)
    with queue.worker(tasks=[spin]):
        eventually(lambda: stopped.status().state is JobState.RUNNING)
        stopped.cancel()
        eventually(lambda: {late.status().state, stopped.status().state} == {JobState.DEAD, JobState.CANCELLED})
    types = {
        attributes(s)["messaging.message.id"]: attributes(s)["error.type"] for s in recorder.spans("process default")
    }
    assert types == {late.id: "queueport.errors.JobTimeout", stopped.id: "queueport.errors.JobCancelled"}


def test_headers_of_the_caller_win(queue: JobQueue, recorder: Recorder) -> None:
    with queue.worker(tasks=[headers]):
        handle = queue.enqueue(headers.using(headers={"traceparent": GIVEN, "a": "b"}).job())
        assert handle.result(10) == {"traceparent": GIVEN, "a": "b", "user": None}
    (sent,), (consumed,) = recorder.spans("enqueue default"), recorder.spans("process default")
    assert sent.kind is SpanKind.CLIENT
    _, trace_id, span_id, _ = GIVEN.split("-")
    assert linked(sent) == linked(consumed) == [(trace_id, span_id)]
    assert recorder.spans("create default") == []


def test_the_baggage_of_the_producer_is_known_in_the_task(queue: JobQueue, recorder: Recorder) -> None:
    token = context.attach(baggage.set_baggage("user", "ann"))
    try:
        handle = queue.enqueue(headers)
        other = queue.enqueue(headers.using(headers={"baggage": "user=bob"}).job())
    finally:
        context.detach(token)
    with queue.worker(tasks=[headers]):
        assert handle.result(10)["user"] == "ann"
        assert other.result(10)["user"] == "bob"
    assert len(recorder.spans("process default")[1].links) == 1


def test_each_of_many_jobs_has_a_context_of_its_own(queue: JobQueue, recorder: Recorder) -> None:
    with queue.worker("default", "other", tasks=[current_span]):
        handles = queue.enqueue_many([current_span.job(), current_span.using(queue="other").job()])
        for handle in handles:
            handle.result(10)
        eventually(lambda: len(recorder.names()) == 5)
    created = [*recorder.spans("create default"), *recorder.spans("create other")]
    (sent,) = recorder.spans("enqueue")
    consumed = [*recorder.spans("process default"), *recorder.spans("process other")]
    assert [span.kind for span in (*created, sent)] == [SpanKind.PRODUCER, SpanKind.PRODUCER, SpanKind.CLIENT]
    assert attributes(sent)["messaging.batch.message_count"] == 2
    assert "messaging.destination.name" not in attributes(sent)
    assert [attributes(span)["messaging.message.id"] for span in created] == [handle.id for handle in handles]
    assert linked(sent) == [ids(span) for span in created]
    assert [linked(span) for span in consumed] == [[ids(span)] for span in created]


async def enqueue_in_a_coroutine(queue: JobQueue) -> None:
    await AsyncJobQueue(queue).enqueue(echo, 1)


def test_the_span_of_a_coroutine_is_the_parent_of_its_enqueue(queue: JobQueue, recorder: Recorder) -> None:
    with recorder.tracer_provider.get_tracer("shop").start_as_current_span("request"):
        asyncio.run(enqueue_in_a_coroutine(queue))
    (produced,), (request,) = recorder.spans("enqueue default"), recorder.spans("request")
    assert ids(produced)[0] == ids(request)[0]


def test_a_job_that_is_too_large_with_the_context_is_sent_without_it(
    queue: JobQueue, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = headers.using(headers={"a": "b"}).job()
    uninstrument()
    first = queue.enqueue(given)
    size = Message.size(queue.operations.read(first.id))
    monkeypatch.setattr(queue.driver, "limits", Limits(message=size))
    instrument(recorder.tracer_provider, recorder.meter_provider)
    second = queue.enqueue(headers.using(headers={"a": "b"}).job())
    assert queue.status(second.id).headers == {"a": "b"}
    monkeypatch.setattr(queue.driver, "limits", Limits(message=size - 1))
    with pytest.raises(PayloadTooLarge):
        queue.enqueue(headers.using(headers={"a": "b"}).job())
    assert [attributes(span).get("error.type") for span in recorder.spans("enqueue default")] == [
        None,
        "queueport.errors.PayloadTooLarge",
    ]


class Broken(SpanProcessor):
    """A processor that raises an error for each span."""

    def on_start(self, *_: Any, **__: Any) -> None:
        raise OSError("no disk")

    def on_end(self, span: ReadableSpan) -> None:
        raise OSError("no disk")


class BrokenEnd(Broken):
    """A processor that raises an error when a span ends."""

    def on_start(self, *_: Any, **__: Any) -> None:
        pass


@pytest.mark.parametrize("processor", [Broken(), BrokenEnd()], ids=["start", "end"])
@pytest.mark.parametrize("job", [echo, fail], ids=["succeeds", "fails"])
def test_an_error_of_the_sdk_is_logged_and_does_no_harm(
    queue: JobQueue,
    processor: SpanProcessor,
    job: Task[[int], Any, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("queueport.contrib.opentelemetry._failures", FailureLog(logging.getLogger("queueport")))
    with recording(processor), queue.worker(tasks=[job]):
        handles = queue.enqueue_many(job.using(retry=Retry(max_attempts=2, initial=0.01)).job(1) for _ in range(3))
        handles.append(queue.enqueue(job.using(retry=Retry(max_attempts=2, initial=0.01)).job(1)))
        assert [handle.result(10) for handle in handles] == [1 if job is echo else 2] * 4
    lines = [record for record in caplog.records if "OpenTelemetry raised" in record.getMessage()]
    assert 1 <= len(lines) <= 2


class Unreachable(SpanProcessor):
    """A processor whose collector does not answer."""

    def __init__(self) -> None:
        self.answer = threading.Event()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.answer.wait(30)


def test_a_worker_does_not_wait_long_for_a_collector_that_does_not_answer(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueport.contrib.opentelemetry.FLUSH_TIMEOUT", 0.1)
    processor = Unreachable()
    with recording(processor):
        worker = queue.worker(tasks=[echo]).start()
        assert queue.enqueue(echo, 1).result(10) == 1
        started = time.monotonic()
        worker.stop()
        processor.answer.set()
    assert time.monotonic() - started < 10


def test_without_an_sdk_jobs_run(queue: JobQueue) -> None:
    instrument()
    try:
        with queue.worker(tasks=[headers]):
            assert queue.enqueue(headers).result(10) == {"user": None}
    finally:
        uninstrument()


def test_metrics(queue: JobQueue, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    with queue.worker(tasks=[echo, fail]):
        handles = queue.enqueue_many(echo.job(number) for number in range(3))
        handles.append(queue.enqueue(fail.using(retry=Retry(max_attempts=2, initial=0.01)).job(1)))
        for handle in handles:
            handle.result(10)

    def down(_: object) -> None:
        raise BackendUnavailable("down")

    monkeypatch.setattr(queue.operations.store, "insert", down)
    with pytest.raises(BackendUnavailable):
        queue.enqueue(echo, 1)

    def counted(metric: str) -> tuple[dict[tuple[str, ...], float], set[str | None]]:
        points = recorder.points(metric)
        assert {attributes["messaging.system"] for attributes, _, _ in points} == {"queueport"}
        keys = ("messaging.operation.name", "messaging.queueport.event", "error.type")
        found: dict[tuple[str, ...], float] = {}
        for attributes, value, _ in points:
            key = tuple(str(attributes[name]) for name in keys if name in attributes)
            found[key] = found.get(key, 0) + value
        return found, {unit for _, _, unit in points}

    unavailable = "queueport.errors.BackendUnavailable"
    assert counted("messaging.client.sent.messages") == ({("enqueue",): 4, ("enqueue", unavailable): 1}, {"{message}"})
    assert counted("messaging.client.operation.duration") == ({("enqueue",): 2, ("enqueue", unavailable): 1}, {"s"})
    assert counted("messaging.client.consumed.messages") == ({("process",): 5}, {"{message}"})
    assert counted("messaging.process.duration") == ({("process",): 4, ("process", "ConnectionError"): 1}, {"s"})
    assert counted("messaging.queueport.events") == (
        {
            ("enqueued",): 4,
            ("started",): 5,
            ("succeeded",): 4,
            ("failed", "ConnectionError"): 1,
            ("retrying", "ConnectionError"): 1,
            ("worker_started",): 1,
            ("worker_stopped",): 1,
        },
        {"{event}"},
    )


def test_log_records_have_the_ids_of_the_trace(
    queue: JobQueue, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(TraceIds())
    caplog.set_level(logging.INFO)
    with queue.worker(tasks=[current_span, fail]):
        seen = queue.enqueue(current_span).result(10)
        queue.enqueue(fail.using(retry=Retry(max_attempts=2, initial=0.01)).job(1)).result(10)
        eventually(lambda: [r for r in caplog.records if getattr(r, "state", None) == "succeeded"][1:])
    (line,) = [record for record in caplog.records if record.getMessage() == "a line of the task"]
    ends = [record for record in caplog.records if hasattr(record, "state")]
    spans = recorder.spans("process default")
    assert [(record.__dict__["trace_id"], record.__dict__["span_id"]) for record in (line, *ends)] == [
        tuple(seen),
        *map(ids, spans),
    ]
    assert "trace_id" not in caplog.records[0].__dict__  # the line about the start of the worker


def test_uninstrument_undoes_instrument(queue: JobQueue) -> None:
    def state() -> tuple[object, ...]:
        filters = [[*handler.filters] for handler in logging.getLogger().handlers]
        return [*hooks._around], [*hooks.event_hooks], hooks.around_send, filters

    before = state()
    with recording() as recorder:
        instrument(recorder.tracer_provider)  # replaces the first call
        queue.enqueue(echo, 1)
        assert recorder.names() == ["enqueue default"]
    assert state() == before
    queue.enqueue(echo, 1)
    assert recorder.names() == ["enqueue default"]


def test_hooks_that_were_registered_later_are_inside_the_span(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_around", [])
    seen: list[bool] = []
    with recording(), queue.worker(tasks=[echo]):

        @around_job
        def look(_job: object) -> Iterator[None]:
            seen.append(trace.get_current_span().is_recording())
            yield

        queue.enqueue(echo, 1).result(10)
    assert seen == [True]


SHOP_TELEMETRY = """
from pathlib import Path
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from queueport.contrib.opentelemetry import instrument
from tests.telemetry import Exporter

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Exporter(Path("spans").absolute())))
instrument(provider)
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_each_process_of_a_worker_is_instrumented_and_its_json_log_has_the_ids(tmp_path: Path, processes: str) -> None:
    """The worker imports the tasks, and a module that only calls `instrument`."""
    (tmp_path / "shop_tasks.py").write_text(
        "import logging\nfrom queueport import task\n\n\n@task\ndef greet() -> None:\n"
        "    logging.getLogger('shop').warning('hello')\n"
    )
    (tmp_path / "shop_telemetry.py").write_text(SHOP_TELEMETRY)
    url, file = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spans"
    with get_queue(url) as queue, recording() as recorder:
        job_id = queue.enqueue("shop_tasks.greet").id
    worker = [sys.executable, "-m", "queueport", "worker", "shop_tasks", "shop_telemetry", "--queue=default"]
    done = subprocess.run(
        [*worker, "--burst", f"--processes={processes}", "--log-format=json", "--log-level=info"],
        cwd=tmp_path,
        env={**os.environ, "QUEUEPORT_URL": url, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (produced,) = recorder.spans("enqueue default")
    (span,) = map(json.loads, file.read_text().splitlines())
    assert span["attributes"]["messaging.message.id"] == job_id
    assert [link["context"]["trace_id"][2:] for link in span["links"]] == [ids(produced)[0]]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (hello,) = [line for line in lines if line["message"] == "hello"]
    (end,) = [line for line in lines if line.get("job_id") == job_id]
    context = span["context"]
    for line in (hello, end):
        assert (f"0x{line['trace_id']}", f"0x{line['span_id']}") == (context["trace_id"], context["span_id"])
