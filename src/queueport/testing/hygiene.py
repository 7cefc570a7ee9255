"""H: closing, namespaces, secrets, bad input, older versions. For the contract suite."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import traceback
from importlib.resources import files
from typing import Any

import pytest

from queueport import AsyncJobQueue, Capability, JobQueue, JobState, get_queue
from queueport.errors import ConfigurationError, QueueClosed, QueueportError
from queueport.message import Message, NotAMessage
from queueport.record import Change, Record
from queueport.store import Insert
from queueport.testing import tasks
from queueport.testing.case import Case, needs
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport.url import BackendURL

__all__ = ["Hygiene"]

SECRET = "s3cr3t-w0rd"  # noqa: S105  # what must not be seen
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
]
WRONG = {
    "no URL": ("jobs.db", "not a URL"),
    "unknown scheme": ("sqlit:///jobs.db", "did you mean 'sqlite'"),
    "missing package": ("rq+redis://localhost", "pip install queueport-rq"),
    "store as backend": ("redis://localhost", "job store"),
    "unknown option": ("sqlite:///jobs.db?leese=3", "did you mean 'lease'"),
    "bad number": ("sqlite:///jobs.db?lease=soon", "lease='soon'"),
    "negative duration": ("sqlite:///jobs.db?lost_after=-1", "lost_after"),
    "option twice": ("sqlite:///jobs.db?lease=3&lease=4", "twice"),
    "bad namespace": ("sqlite:///jobs.db?namespace=a-b", "namespace"),
    "store of the wrong kind": ("sqlite:///jobs.db?store=memory://", "store"),
}


class Hygiene(Case):
    """The lines of group H."""

    def test_H1_closing_twice_is_fine_and_then_it_says_so(
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

    def test_H2_namespaces_never_see_each_other(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
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
    def test_H3_no_password_is_shown(
        self, harness: Harness, trace: Trace, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            try:
                with get_queue(url, call_timeout=1.0) as opened:
                    shown = [repr(opened.check())]  # where that adapter is installed
            except QueueportError as error:
                shown = [repr(error), "".join(traceback.format_exception(error))]
        assert not [text for text in (*shown, caplog.text) if SECRET in text]

    def test_H3_no_password_in_what_a_queue_shows(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        login = re.search(r"://([^/@:]*):([^/@]+)@", harness.url)
        shown = [repr(queue), queue.url, repr(queue.check()), repr(AsyncJobQueue(queue)), repr(queue.native)]
        shown += [repr(queue.driver), repr(queue.operations.store), repr(queue.enqueue(tasks.echo, 1))]
        if login is not None and login[1] != login[2]:  # a password that is its user's name is seen in any case
            assert not [text for text in shown if login[2] in text]

    def test_H3_no_password_of_backend_or_store_in_what_any_queue_shows(
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
    def test_H3_the_command_line_shows_none_either(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        command = [sys.executable, "-m", "queueport", "stats", "--json", f"--url=sqlite://user:{SECRET}@host/jobs.db"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert ended.returncode != 0
        assert SECRET not in ended.stdout + ended.stderr
        assert "user:***@host" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1

    @pytest.mark.parametrize("wrong", list(WRONG))
    def test_H4_bad_input_gets_one_sentence(
        self, harness: Harness, trace: Trace, wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, told = WRONG[wrong]
        with monkeypatch.context() as patched:
            if wrong == "missing package":
                patched.setattr("queueport.connect.backends", dict)
            with pytest.raises(ConfigurationError) as raised:
                get_queue(url)
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_H4_no_queue_named_says_what_to_write(
        self, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("QUEUEPORT_URL", raising=False)
        with pytest.raises(ConfigurationError, match="export QUEUEPORT_URL="):
            get_queue(namespace="x")

    def test_H4_wrong_worker_options_are_told(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        wrong: list[dict[str, Any]] = [{"threads": 0}, {"processes": 0}, {"threads": 1.5}, {"grace": -1}]
        for options in wrong:
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                queue.worker(**options)

    def test_H5_only_registered_tasks_run(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        names = ["os.system", "builtins.eval", "queueport.testing.tasks.note", "__main__.main"]
        jobs = [queue.enqueue(name, "touch nothing") for name in names]
        with harness.working(queue):
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
            eventually(lambda: all(job.status().state is JobState.DEAD for job in jobs), 15)
        errors_told = [job.status().error for job in jobs]
        assert {error.type.rpartition(".")[2] for error in errors_told if error is not None} == {"UnknownTask"}
        assert [job.status().attempts for job in jobs] == [0] * len(jobs)

    def test_H5_a_message_cannot_name_another_task(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.echo, "the record decides")
        forged = {"v": 1, "id": handle.id, "task": tasks.abort.name, "queue": tasks.QUEUE, "life": 1, "sent_at": 0.0}
        harness.inject(tasks.QUEUE, json.dumps({**forged, "payload": {"args": ["forged"], "kwargs": {}}}).encode())
        with harness.working(queue):
            assert handle.result(10) == "the record decides"
        assert [run.task for run in trace.runs(handle.id)] == [tasks.echo.name]

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

    def test_H6_a_newer_version_is_left_alone(self, harness: Harness, trace: Trace) -> None:
        newer = json.dumps({**json.loads(_sample("message-v1.json")), "v": 2}).encode()
        with pytest.raises(NotAMessage, match=r"version 2, newer .* upgrade the worker"):
            Message.parse(newer)


def _sample(name: str) -> bytes:
    return files("queueport.testing").joinpath("samples", name).read_bytes()
