"""Somebody who can write to the Redis can write invalid jobs, but cannot make a worker run other code."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from adapters.rq.tests.rq_server import ENTRY, RQ
from queueport import JobQueue
from queueport.testing.tasks import QUEUE, echo
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport_rq.job import QueueportJob


class Malice:
    """Unpickling an object of this class creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def planted(rq: RQ, data: bytes, name: str = "planted", **fields: str) -> str:
    """Write a job's hash and its id in the queue by hand; returns the id."""
    queue = rq.queue(QUEUE)
    rq_id = f"{rq.namespace}-{name}"
    known = {"origin": queue.name, "status": "queued", "created_at": "2026-01-01T00:00:00Z"}
    mapping: dict[Any, Any] = {"data": zlib.compress(data), **known, **fields}
    rq.client.hset(Job.key_for(rq_id), mapping=mapping)
    rq.client.rpush(queue.key, rq_id)
    return rq_id


def call(name: str, *args: Any) -> bytes:
    return json.dumps([name, None, args, {}]).encode()


class TestSafety(RQCase):
    @pytest.mark.parametrize("native", [False, True], ids=["our_command", "rq_worker"])
    @pytest.mark.parametrize("what", ["another_function", "pickle"])
    def test_a_job_that_is_not_queueports_is_refused_and_put_aside(
        self, harness: RQHarness, trace: Trace, tmp_path: Path, native: bool, what: str
    ) -> None:
        queue, canary = harness.open(), tmp_path / "canary"
        data = pickle.dumps(Malice(canary)) if what == "pickle" else call("os.system", f"touch {canary}")
        rq_id = planted(harness.rq, data)
        worker = harness.process(native=native)
        assert queue.enqueue(echo, "the worker goes on").result(20) == "the worker goes on"
        failed = harness.rq.queue(QUEUE).failed_job_registry
        eventually(lambda: failed.get_job_ids() == [rq_id])
        assert "queueport did not send it" in worker.log
        assert not canary.exists()

    @pytest.mark.parametrize("native", [False, True], ids=["our_command", "rq_worker"])
    def test_jobs_that_rq_cannot_read_do_not_end_the_worker(
        self, harness: RQHarness, trace: Trace, native: bool
    ) -> None:
        queue = harness.open()
        message = call(ENTRY, "{}")
        invalid = [{"timeout": "soon"}, {"status": "unheard of"}, {"created_at": "yesterday"}, {"origin": "elsewhere"}]
        planted_ids = [planted(harness.rq, message, f"planted-{n}", **fields) for n, fields in enumerate(invalid)]
        harness.rq.client.rpush(harness.rq.queue(QUEUE).key, "no id!", "no:id", b"\xff")
        held = harness.rq.queue(QUEUE).intermediate_queue_key
        # RQ keeps the entries that a worker has taken in this list.
        harness.rq.client.rpush(held, "no id!", b"\xff")
        worker = harness.process(native=native)
        assert queue.enqueue(echo, "the worker goes on").result(20) == "the worker goes on"
        failed = harness.rq.queue(QUEUE).failed_job_registry
        eventually(lambda: sorted(failed.get_job_ids()) == planted_ids)
        # The entry `no:id` may stay, because it has the valid form JOB:EXECUTION.
        eventually(lambda: set(harness.rq.client.lrange(held, 0, -1)) <= {b"no:id"})
        assert worker.running
        assert "unhandled" not in worker.log
        eventually(lambda: not harness.rq.client.exists("rq:wip:", "rq:wip:elsewhere", "rq:failed:elsewhere"))

    @pytest.mark.parametrize("field", ["success_callback_name", "failure_callback_name"])
    def test_a_callback_that_somebody_added_is_not_called(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, field: str
    ) -> None:
        rq_id = planted(harness.rq, call(ENTRY, "invalid"), **{field: "nowhere.at_all"})
        with harness.working(queue):
            eventually(lambda: harness.rq.queue(QUEUE).failed_job_registry.get_job_ids() == [rq_id])
        (result,) = QueueportJob.fetch(rq_id, harness.rq.client, "json").results()
        assert "Not run" in str(result.exc_string)

    def test_fields_that_make_rq_call_or_send_something_are_not_read(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        hook = json.dumps([{"url": "http://localhost:1", "statuses": ["finished", "failed"]}])
        rq_id = planted(harness.rq, call(ENTRY, "{}"), webhooks=hook, repeats_left="3", retries_left="3")
        plain, ours = (kind.fetch(rq_id, harness.rq.client, "json") for kind in (Job, QueueportJob))
        assert (plain.repeats_left, plain.retries_left) == (3, 3)
        assert (ours.repeats_left, ours.retries_left, ours.webhooks) == (None, None, [])
        assert isinstance(ours, QueueportJob)
        assert ours.body == b"{}"

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"not JSON",
            b"[]",
            call("os.system", "x"),
            call(ENTRY),
            call(ENTRY, 1),
            call(ENTRY, "a", "b"),
            json.dumps([ENTRY, None, 5, {}]).encode(),
            call(ENTRY, "\ud800"),
        ],
    )
    def test_only_a_call_of_queueports_function_with_one_text_argument_is_a_message(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, data: bytes
    ) -> None:
        job = QueueportJob("any", connection=harness.rq.client, serializer="json")
        job.data = data
        assert job.body is None
        with pytest.raises(PermissionError, match="is not run"):
            job.func  # noqa: B018  # reading it is what RQ does

    def test_a_plain_rq_worker_says_which_worker_to_start(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        handle = queue.enqueue(echo, 1)
        plain = [sys.executable, "-m", "rq.cli", "worker", "--burst", "-S", "json", "-u", harness.server.url]
        name = harness.rq.queue(QUEUE).name
        done = subprocess.run([*plain, name], capture_output=True, text=True, timeout=60, check=False)
        assert "-w queueport_rq.worker.QueueportWorker" in done.stdout + done.stderr
        assert trace.times(handle.id) == 0

    def test_the_apps_own_jobs_in_the_same_redis_are_left_alone(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        theirs = Queue(f"{harness.namespace}_theirs", connection=harness.rq.client)
        job = theirs.enqueue("shop.resize", 1)
        try:
            with harness.working(queue):
                queue.enqueue(echo, 1).result(10)
            queue.purge(QUEUE)
            assert theirs.job_ids == [job.id]
            assert job.get_status() == "queued"
        finally:
            theirs.delete()
