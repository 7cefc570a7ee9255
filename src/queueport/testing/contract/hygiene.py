"""Group H, "Hygiene": closing, namespaces, passwords, wrong input and older versions. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.resources import files
from typing import Any

import pytest

from queueport import AsyncJobQueue, Capability, JobQueue, JobState, Retry, get_queue
from queueport.errors import BackendUnavailable, ConfigurationError, JobNotFound, QueueClosed, QueueportError
from queueport.spi.message import Message, NotAMessage, SendOutcome, SendResult
from queueport.spi.record import Change, Record
from queueport.spi.signing import SigningKeys
from queueport.spi.store import Insert
from queueport.spi.url import BackendURL
from queueport.testing import tasks
from queueport.testing.contract.case import Case, budgets, needs
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["HygieneTests"]

SECRET = "s3cr3t-w0rd"  # noqa: S105  # a password that must not be shown
KEY, OLD_KEY, OTHER_KEY = "new-key-" * 4, "old-key-" * 4, "other-key-" * 4
SECRET_URLS = [
    f"redis://:{SECRET}@localhost:6379/0",
    f"rq+redis://user:{SECRET}@localhost/0",
    f"rq+redis://user:{SECRET}@localhost/0?lease=soon",
    f"rq+redis://user:{SECRET}@localhost/0?lease=3&lease=4",
    f"amqp://user:{SECRET}@localhost/?store=redis://:{SECRET}@localhost/1",
    f"celery+amqp://user:{SECRET}@localhost/?lease=soon&store=redis%3A%2F%2F%3A{SECRET}%40localhost%2F1",
    f"sqs://eu-central-1?secret={SECRET}",
    f"sqlite://user:{SECRET}@localhost/jobs.db",
    f"sqlite:///jobs.db?password={SECRET}",
    f"sqlite:///jobs.db?lease=redis://:{SECRET}@localhost",
    f"sqlite:///jobs.db?store=redis://:{SECRET}@localhost",
    f"memory://user:{SECRET}@localhost",
    f"Redis://:{SECRET}@localhost",
    f"user:{SECRET}@localhost",
    f"nats://{SECRET}@localhost?lease=soon",
    # The passwords in the last three URLs are not percent-encoded.
    f"rq+redis://:a/{SECRET}?{SECRET}@localhost/0",
    f"amqp://user:a@{SECRET}/{SECRET}#b?{SECRET}=c@localhost/",
    f"amqp://localhost/?store=redis://:a/{SECRET}?{SECRET}=b@localhost/1",
]
WRONG = {
    "no URL": ("jobs.db", "not a URL"),
    "unknown scheme": ("sqlit:///jobs.db", "did you mean 'sqlite'"),
    "missing package": ("rq+redis://localhost", "pip install queueport-rq"),
    "store as backend": ("redis://localhost", "job store"),
    "unknown option": ("sqlite:///jobs.db?leese=3", "did you mean 'lease'"),
    "bad number": ("sqlite:///jobs.db?lease=soon", "lease='soon'"),
    "negative duration": ("sqlite:///jobs.db?lost_after=-1", "lost_after"),
    "jobs or seconds": ("sqlite:///jobs.db?keep_succeeded=100", "'100 jobs' or '100s'"),
    "line break": ("sqlite:///jo\nbs.db", "line break"),
    "password that is not encoded": ("amqp://user:a/b@localhost", "'/' as %2F"),
    "option twice": ("sqlite:///jobs.db?lease=3&lease=4", "twice"),
    "bad namespace": ("sqlite:///jobs.db?namespace=a-b", "namespace"),
    "store of the wrong kind": ("sqlite:///jobs.db?store=memory://", "store"),
}


class HygieneTests(Case):
    """All lines of group H."""

    def test_H1_a_closed_queue_says_so_and_may_be_closed_again(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        handle = queue.enqueue(tasks.echo, 1)
        queue.close()
        queue.close()
        calls = [
            lambda: queue.enqueue(tasks.echo, 1),
            lambda: queue.status(handle.id),
            queue.stats,
            queue.worker,
            queue.dead_letters.count,
            handle.status,
            handle.result,
        ]
        for call in calls:
            with pytest.raises(QueueClosed, match="closed"):
                call()
        with harness.open() as other:
            assert other.stats() is not None
        with pytest.raises(QueueClosed):
            other.stats()

    def test_H1_a_call_during_close_ends_or_says_that_the_queue_is_closed(self, harness: Harness, trace: Trace) -> None:
        for _ in range(3):
            queue = harness.open()
            handle = queue.enqueue(tasks.echo, 1)
            calls: list[Callable[[], object]] = [partial(_enqueue, queue), queue.stats, queue.check]
            calling, closing = [*calls, handle.status] * 2, [queue.close] * 2
            started = threading.Barrier(len(calling) + len(closing))
            with ThreadPoolExecutor(len(calling) + len(closing)) as threads:
                errors = [threads.submit(_call_until_error, call, started) for call in calling]
                closed = [threads.submit(_call_after, call, started) for call in closing]
            assert [future.result() for future in closed] == [None, None]
            for error in (future.result() for future in errors):
                assert isinstance(error, QueueClosed | BackendUnavailable), repr(error)
                assert "closed" in str(error)

    def test_H1_a_task_cannot_close_the_queue_of_its_worker(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        with harness.working(queue):
            assert queue.enqueue(tasks.close_queue).result(15) is None
            assert queue.enqueue(tasks.echo, 2).result(15) == 2
            eventually(lambda: queue.stats().totals.succeeded == 3, 15, queue.stats)

    def test_H2_namespaces_are_isolated(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        other = harness.open(namespace=f"{harness.namespace}_other")
        mine = queue.enqueue(tasks.echo.using(job_id="same", key="k").job("mine"))
        theirs = other.enqueue(tasks.echo.using(job_id="same", key="k").job("theirs"))
        assert (queue.stats().totals.total, other.stats().totals.total) == (1, 1)
        with harness.working(queue):
            assert mine.result(10) == "mine"
            assert theirs.status().state is JobState.QUEUED
            assert [worker.name for worker in other.stats().workers] == []
        assert other.purge(tasks.QUEUE) == 1
        assert mine.status().state is JobState.SUCCEEDED
        assert [status.id for status in other.jobs(state=JobState.SUCCEEDED)] == []

    @pytest.mark.parametrize("url", SECRET_URLS)
    def test_H3_errors_and_logs_show_no_password(
        self, harness: Harness, trace: Trace, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            try:
                with get_queue(url, call_timeout=1.0) as opened:
                    shown = [repr(opened.check())]  # reached only if the URL is valid and its adapter is installed
            except QueueportError as error:
                shown = [repr(error), "".join(traceback.format_exception(error))]
        assert not [text for text in (*shown, caplog.text) if SECRET in text]

    def test_H3_this_queue_shows_no_password(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        login = re.search(r"://([^/@:]*):([^/@]+)@", harness.url)
        shown = [repr(queue), queue.url, repr(queue.check()), repr(AsyncJobQueue(queue)), repr(queue.native)]
        shown += [repr(queue.driver), repr(queue.operations.store), repr(queue.enqueue(tasks.echo, 1))]
        # the user name may be shown, so a password that equals the user name cannot be searched for
        if login is not None and login[1] != login[2]:
            assert not [text for text in shown if login[2] in text]

    def test_H3_no_queue_shows_a_password_of_its_backend_or_store(
        self, queue: JobQueue, harness: Harness, trace: Trace, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = BackendURL.parse(f"any://user:{SECRET}@localhost/0?option=1")
        settings = queue.settings.model_copy(update={"store": f"redis://:{SECRET}@localhost/1"})
        with caplog.at_level(logging.DEBUG), JobQueue(url, settings, queue.driver, queue.operations.store) as secret:
            shown = [repr(url), str(url), repr(settings), str(settings), repr(secret), str(secret), secret.url]
            shown += [repr(AsyncJobQueue(secret)), repr(secret.enqueue(tasks.echo, 1)), repr(secret.dead_letters)]
            shown += [repr(secret.worker(tasks=[tasks.echo])), repr(secret.check())]
        with pytest.raises(QueueClosed) as raised:
            secret.stats()
        shown += ["".join(traceback.format_exception(raised.value)), caplog.text]
        assert not [text for text in shown if SECRET in text]
        assert "any://user:***@localhost/0?option=1" in secret.url

    @needs(Capability.PERSISTENT)
    def test_H3_the_command_line_shows_no_password(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        command = [sys.executable, "-m", "queueport", "stats", "--json", f"--url=sqlite://user:{SECRET}@host/jobs.db"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert ended.returncode != 0
        assert SECRET not in ended.stdout + ended.stderr
        assert "user:***@host" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1

    @pytest.mark.parametrize("wrong", list(WRONG))
    def test_H4_a_wrong_url_raises_an_error_of_one_sentence(
        self, harness: Harness, trace: Trace, wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, expected = WRONG[wrong]
        with monkeypatch.context() as patched:
            if wrong == "missing package":
                patched.setattr("queueport.connect.backends", dict)
            with pytest.raises(ConfigurationError) as raised:
                get_queue(url)
        assert expected in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_H4_without_a_url_the_error_says_what_to_set(
        self, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("QUEUEPORT_URL", raising=False)
        with pytest.raises(ConfigurationError, match="export QUEUEPORT_URL="):
            get_queue(namespace="x")

    def test_H4_wrong_worker_options_are_refused(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        wrong: list[dict[str, Any]] = [{"threads": 0}, {"processes": 0}, {"threads": 1.5}, {"grace": -1}, {"wait": "5"}]
        for options in wrong:
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                queue.worker(**options)

    def test_H4_wrong_filters_are_refused_and_change_nothing(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        waiting, letters = queue.enqueue(tasks.echo, 1), queue.dead_letters
        added = letters.add(tasks.echo.job(2), "kept")
        listings: list[Any] = [queue.jobs, letters.list]
        calls: list[Any] = [queue.purge, queue.setup, letters.purge, letters.count, letters.retry_all, letters.list]
        for name in ("", "a b", "x" * 65, 7):
            for call in calls:
                with pytest.raises(ConfigurationError, match="not a queue name"):
                    call(name)
        for limit in (0, -1, 2.5, "1", True, None):
            for listing in listings:
                with pytest.raises(ConfigurationError, match="limit="):
                    listing(limit=limit)
        with pytest.raises(ConfigurationError, match="use one of scheduled, queued"):
            queue.jobs(state="bogus")
        wrong: list[Any] = ["", 7]
        for error in wrong:
            with pytest.raises(ConfigurationError, match="error="):
                letters.retry_all(error=error)
        ages: list[Any] = [-1.0, float("nan"), float("inf"), "60", 10**400, True]
        for older_than in ages:
            with pytest.raises(ConfigurationError, match="older_than="):
                letters.purge(older_than=older_than)
        for after in ("unknown", "a b", ""):
            for listing in listings:
                with pytest.raises(JobNotFound):
                    listing(after=after)
        assert (waiting.status().state, added.status().state) == (JobState.QUEUED, JobState.DEAD)

    def test_H5_only_registered_tasks_run(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        names = ["os.system", "builtins.eval", "queueport.testing.tasks.note", "__main__.main"]
        jobs = [queue.enqueue(name, "touch nothing") for name in names]
        with harness.working(queue):
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
            eventually(lambda: all(job.status().state is JobState.DEAD for job in jobs), 15)
        errors = [job.status().error for job in jobs]
        assert {error.type.rpartition(".")[2] for error in errors if error is not None} == {"UnknownTask"}
        assert [job.status().attempts for job in jobs] == [0] * len(jobs)

    @pytest.mark.parametrize("task", [tasks.abort.name, "os.system"])
    def test_H5_a_message_that_names_another_task_changes_nothing(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        queue.setup(tasks.QUEUE)
        with monkeypatch.context() as patched:  # drop the job's own message, so that the worker gets only `forged`
            patched.setattr(queue.driver, "publishes_with_insert", False)
            patched.setattr(queue.driver, "publish", lambda messages: [SendResult(SendOutcome.SENT)] * len(messages))
            handle = queue.enqueue(tasks.echo, "the record decides")
        forged = {"v": 1, "id": handle.id, "task": task, "queue": tasks.QUEUE, "life": 1, "sent_at": 0.0}
        harness.inject(tasks.QUEUE, json.dumps({**forged, "payload": {"args": ["forged"], "kwargs": {}}}).encode())
        with harness.working(queue):
            assert handle.result(10) == "the record decides"
        assert [run.task for run in trace.runs(handle.id)] == [tasks.echo.name]
        status = handle.status()
        assert (*budgets(status), status.max_attempts) == (1, 0, 0, Retry().max_attempts)

    @pytest.mark.parametrize("sample", ["queued", "dead"])
    def test_H6_records_of_version_1_are_read(
        self, queue: JobQueue, harness: Harness, trace: Trace, sample: str
    ) -> None:
        kept = json.loads(_sample(f"record-v1-{sample}.json"))
        kept["payload"] = kept["payload"].encode()
        record = Record.from_flat(kept)
        store = queue.operations.store
        names = {"state": record.state, "errors": record.errors, "failures": record.failures}
        change = Change({**names, "sent": True}, {"queued_at": 0.0, "sent_at": 0.0, "enqueued_at": 0.0})
        store.insert([Insert(record, change, "rev")])
        status = queue.status(record.id)
        assert (status.state.value, status.args, status.headers) == (sample, [[1, "ü"]], {"tenant": "a"})
        if sample == "dead":
            assert status.error is not None
            assert status.error.message == "kept"
        queue.cancel(record.id)
        queue.retry(record.id)
        with harness.working(queue):
            assert queue.result(record.id, 10) == [1, "ü"]

    def test_H6_messages_of_version_1_are_read(self, harness: Harness, trace: Trace) -> None:
        message = Message.parse(_sample("message-v1.json"))
        assert (message.id, message.task, message.queue) == ("kept-1", tasks.echo.name, "default")
        assert (message.life, message.sent_at, message.priority, message.buried) == (2, 1700000000.5, 3, False)

    def test_H6_a_newer_version_is_rejected(self, harness: Harness, trace: Trace) -> None:
        newer = json.dumps({**json.loads(_sample("message-v1.json")), "v": 2}).encode()
        with pytest.raises(NotAMessage, match=r"version 2, newer .* upgrade the worker"):
            Message.parse(newer)

    @pytest.mark.parametrize("native", [False, True], ids=["worker", "native"])
    def test_H7_forged_messages_are_put_aside_and_signed_jobs_run(
        self, harness: Harness, trace: Trace, caplog: pytest.LogCaptureFixture, native: bool
    ) -> None:
        if not harness.open().driver.carries:
            with pytest.raises(ConfigurationError, match="sends no messages"):
                harness.open(signing_key=KEY)
            return
        if native and harness.native_command([tasks.QUEUE]) is None:
            return
        settings = {"signing_key": f"{KEY}, {OLD_KEY}", "lost_after": 60.0}
        queue, old = harness.open(**settings), harness.open(**{**settings, "signing_key": OLD_KEY})
        queue.setup(tasks.QUEUE)
        with pytest.MonkeyPatch.context() as patched:  # drop the jobs' own messages, so that the worker gets only these
            patched.setattr(queue.driver, "publishes_with_insert", False)
            patched.setattr(queue.driver, "publish", lambda messages: [SendResult(SendOutcome.SENT)] * len(messages))
            handles = [queue.enqueue(tasks.echo, number) for number in range(4)]
        records = [queue.operations.read(handle.id) for handle in handles]
        signer, other = queue.operations.signer, SigningKeys.parse(OTHER_KEY).signer(harness.namespace)
        changed = {**json.loads(Message.of(records[2], 0.0, signer=signer).body), "life": 2}
        elsewhere = SigningKeys.parse(KEY).signer("elsewhere")
        harness.inject(tasks.QUEUE, Message.of(records[0], 0.0).body)
        harness.inject(tasks.QUEUE, Message.of(records[1], 0.0, signer=other).body)
        harness.inject(tasks.QUEUE, json.dumps(changed).encode())
        harness.inject(tasks.QUEUE, Message.of(records[3], 0.0, signer=elsewhere).body)
        with caplog.at_level(logging.DEBUG), ExitStack() as stack:
            if native:
                environment = {f"QUEUEPORT_{name.upper()}": str(value) for name, value in settings.items()}
                worker = harness.process(native=True, **environment)
                stack.callback(worker.stop)
            else:
                stack.enter_context(harness.working(queue))
            assert queue.enqueue(tasks.echo, "new").result(20) == "new"
            assert old.enqueue(tasks.echo, "old").result(20) == "old"

            def text() -> str:
                return caplog.text + harness.logs()

            eventually(lambda: text().count("put aside a message that is not signed") == 1, 15, text)
            eventually(lambda: text().count("put aside a message that is signed with a key that") == 3, 15, text)
            assert [budgets(handle.status()) for handle in handles] == [(0, 0, 0)] * 4
            for record in records:
                harness.inject(tasks.QUEUE, Message.of(record, 0.0, signer=signer).body)
            assert [handle.result(20) for handle in handles] == [0, 1, 2, 3]
        assert len(trace.runs()) == 6
        assert not [key for key in (KEY, OLD_KEY) if key in text()]

    def test_H7_a_worker_without_a_key_runs_signed_jobs(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        if not queue.driver.carries:
            return
        signed = harness.open(signing_key=KEY)
        with harness.working(queue):
            assert signed.enqueue(tasks.echo, 1).result(20) == 1

    def test_H7_no_key_is_shown(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        settings = queue.settings.model_copy(update={"signing_key": SigningKeys.parse(KEY)})
        with JobQueue(BackendURL.parse(harness.url), settings, queue.driver, queue.operations.store) as signed:
            shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
            shown += [repr(settings.signing_key), repr(signed.operations.signer), repr(signed.check())]
            shown += [repr(signed), repr(signed.worker(tasks=[tasks.echo]))]
        for wrong in ("short-key", f"{KEY},short-key", f"unsigned,{KEY}", f"{KEY},", b"short-key"):
            with pytest.raises(ConfigurationError, match="signing_key") as raised:
                get_queue(harness.url, signing_key=wrong)
            shown += ["".join(traceback.format_exception(raised.value))]
        assert not [text for text in shown if KEY in text or "short-key" in text]


def _enqueue(queue: JobQueue) -> object:
    return queue.enqueue(tasks.echo, 1)


def _call_until_error(call: Callable[[], object], started: threading.Barrier) -> Exception:
    """Repeat a call until it raises an error, and return the error. Wait at `started` after the first call."""
    try:
        call()
        started.wait(30)
        while True:
            call()
    except Exception as error:  # noqa: BLE001  # the test checks its type
        return error


def _call_after(call: Callable[[], object], started: threading.Barrier) -> object:
    """Wait at `started` until the other threads have made their first call, then make this call."""
    started.wait(30)
    return call()


def _sample(name: str) -> bytes:
    return files("queueport.testing").joinpath("samples", name).read_bytes()
