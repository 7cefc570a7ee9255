"""`Harness`: how the contract suite reaches and disturbs one backend. Authors of adapters implement its parts.

    class SpoolHarness(Harness):
        def wipe(self, queue: str) -> None: ...

If a part without a default (a method such as `wipe`) is missing, the tests that call it are skipped; if the environment
variable `CI` is set, these tests fail. Each test has its own harness and namespace.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from queueport import Capability, JobQueue, get_queue
from queueport.errors import ConfigurationError
from queueport.spi.message import Message
from queueport.spi.url import BackendURL
from queueport.testing import tasks
from queueport.testing.process import WorkerProcess
from queueport.testing.waiting import eventually

__all__ = ["Harness"]


class Harness:
    """A backend under test, and the queues and workers of one test. `url` names the backend and its store."""

    settings: Mapping[str, Any] = {"lease": 2.0, "lost_after": 2.0, "unknown_after": 2.0, "call_timeout": 2.5}
    """The settings of each queue and worker, unless a test overrides them. These times, in seconds, are so short that
    recovery takes only seconds.

    `call_timeout` is long enough for a server that needs a second to answer on a busy machine.
    """
    late: float = 1.0
    """The number of seconds by which a job may start late. Set a higher number only for a slow emulator."""
    title: str = ""
    """The name in reports, such as "rabbitmq (classic) + redis". Default: the name of the backend."""

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError for a wrong URL, and if the URL contains a setting that the suite sets itself.

        The suite passes these settings to worker processes in environment variables. A value in the URL would take
        precedence over the variable.
        """
        for name in ("namespace", *self.settings):
            if name in BackendURL.parse(url).options:
                raise ConfigurationError(f"the contract suite sets {name} itself: leave {name}= out of the URL")
        self.url = url
        self.namespace = f"contract_{uuid.uuid4().hex[:12]}"
        self._queues: list[JobQueue] = []
        self._processes: list[WorkerProcess] = []
        self._places: dict[str, set[str]] = {}
        self.lacking: str | None = None
        """The reason why the test was skipped, if it was skipped because this harness lacks a part; else None."""

    # -- parts that an author fills in; docs/contract.md lists them ---------------------------------

    def worker_command(self, *options: str) -> Sequence[str]:
        """The command that starts queueport's own worker.

        `options` are options of `queueport worker`. An adapter need not change this method.
        """
        return [sys.executable, "-m", "queueport", "worker", tasks.__name__, *options]

    def native_command(self, queues: Sequence[str]) -> Sequence[str] | None:
        """The command that starts the framework's own worker for these queues; None if the backend has no workers of
        its own.
        """
        return None

    def restart_backend(self) -> None:
        """Stop the backend, preferably with SIGKILL, and start it again with the data that it kept on disk."""
        self._missing("restart_backend")

    def restart_store(self) -> None:
        """Stop the store and start it again. If backend and store are one server, restart that server."""
        self._missing("restart_store")

    def wipe(self, queue: str) -> None:
        """Delete the messages that wait in a queue, without using queueport.

        If the store is the queue, there are no messages, and this method must do nothing.
        """
        self._missing("wipe")

    def inject(self, queue: str, body: bytes) -> None:
        """Put a message with this body into a queue, without using queueport.

        If the store is the queue, there are no messages: pass the body to `JobRunner.deliver`, as a driver would.
        If the store keeps records as data that can be damaged, also overwrite a part of a record with the body.
        """
        self._missing("inject")

    def redeliver(self, job_id: str) -> None:
        """Deliver a message of this job once more, even if the job's record was removed.

        By default, this method injects the result of `message_of` into the queue `default`. If the store is the queue,
        override this method, and try to begin the job once more.
        """
        self.inject(tasks.QUEUE, self.message_of(job_id))

    def native_dead(self) -> Sequence[str]:
        """The ids of the jobs in the backend's own dead letters, read with the backend's own tools."""
        self._missing("native_dead")

    def redrive(self, job_id: str) -> None:
        """Move a dead-letter copy back to its queue with the backend's own tools."""
        self._missing("redrive")

    def sends_down(self) -> AbstractContextManager[None]:
        """A context manager. Inside it, no message can be sent to the backend."""
        self._missing("sends_down")

    def store_down(self) -> AbstractContextManager[None]:
        """A context manager. Inside it, no call to the store gets an answer, also none from the test's process."""
        self._missing("store_down")

    def clean(self) -> None:
        """Remove everything that the test has created in the backend and in the store.

        Called once, after the workers have ended and the queues are closed. `used` returns the namespaces of the test,
        whose names all begin with `namespace`, and the queues of each. Nothing needs to be done for a store in a
        temporary file. For a store on Redis, `OnRedis` in `queueport.testing.redis_store` removes the keys.
        """

    # -- what the tests use ------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The capabilities that the backend declares."""
        return self.open().capabilities

    def open(self, **settings: Any) -> JobQueue:
        """Open a queue in this test's namespace. It is closed after the test.

        `settings` override `self.settings` and the namespace.
        """
        named = {"namespace": self.namespace, **self.settings, **settings}
        queue = get_queue(self.url, **named)
        self._queues.append(queue)
        self._use(queue.settings.namespace)
        return queue

    def message_of(self, job_id: str) -> bytes:
        """The body of a message of this job. If the job has no record, the body names the task `echo`."""
        operations = self.open().operations
        record = operations.store.get([job_id])[0]
        unknown = {"v": 1, "id": job_id, "task": tasks.echo.name, "queue": tasks.QUEUE, "life": 1, "sent_at": 0.0}
        return (
            json.dumps(unknown).encode() if record is None else Message.of(record, 0.0, signer=operations.signer).body
        )

    def used(self) -> Mapping[str, AbstractSet[str]]:
        """For each namespace of the test, its queues: the queue `default`, those that have had jobs, and those for
        which `process` or `working` has started a worker.
        """
        for namespace, queues in list(self._places.items()):
            with self.open(namespace=namespace) as queue:
                queues.update(queue.operations.store.stats().queues)
        return self._places

    @contextmanager
    def working(self, queue: JobQueue, *queues: str, **options: Any) -> Iterator[None]:
        """A context manager that runs a worker until its block ends.

        The worker runs in this process if the backend declares THREADS, otherwise in a new process. If the block raises
        an error, the new process runs until the end of the test.
        """
        self._use(queue.settings.namespace, *queues)
        if Capability.THREADS in queue.capabilities:
            with queue.worker(*(queues or (tasks.QUEUE,)), **options):
                yield
            return
        words = [f"--{name}={value}" for name, value in options.items()]
        settings = {f"QUEUEPORT_{name.upper()}": str(value) for name, value in queue.spec()["settings"].items()}
        worker = self.process(*queues, options=words, native=False, **settings)
        yield
        worker.stop()

    def process(
        self, *queues: str, options: Sequence[str] = (), native: bool = False, **environment: str
    ) -> WorkerProcess:
        """Start a worker process, and wait until the stats list it or it has ended, at most 30 seconds.

        `options` are options of `queueport worker`. With `native`, use the framework's own worker command, if there is
        one. That command does not get the `options`.
        """
        names = queues or (tasks.QUEUE,)
        self._use(self.namespace, *names)
        command = self.native_command(names) if native else None
        if command is None:
            command = self.worker_command(*(f"--queue={name}" for name in names), *options)
        return self.start(command, ready=True, **environment)

    def start(self, command: Sequence[str], *, ready: bool = True, **environment: str) -> WorkerProcess:
        """Start a command with the environment of this test. With `ready`, wait until the stats list a new worker or
        the command has ended; raises AssertionError if neither happens within 30 seconds.
        """
        queue = self.open()
        before = {worker.name for worker in queue.stats().workers} if ready else set[str]()
        worker = WorkerProcess(command, {**os.environ, **self.environment(), **environment}, self._log())
        self._processes.append(worker)
        if ready:
            eventually(
                lambda: {w.name for w in queue.stats().workers} - before or not worker.running,
                30,
                lambda: f"the worker is not listed in the stats:\n{worker.log}",
            )
        return worker

    def environment(self) -> dict[str, str]:
        """The environment variables with which another process opens the queue that `open()` returns in this one."""
        named = {"url": self.url, "namespace": self.namespace, **self.settings}
        if isinstance(named.get("keep_succeeded"), float | int):  # text must name the unit, such as "2.0s"
            named["keep_succeeded"] = f"{named['keep_succeeded']}s"
        return {f"QUEUEPORT_{name.upper()}": str(value) for name, value in named.items()}

    def end(self) -> None:
        """Kill the workers, close the queues and call `clean`. The suite calls this after each test."""
        for worker in self._processes:
            worker.clean()
        for queue in self._queues:
            queue.close()
        self.clean()

    def logs(self) -> str:
        """The output of all worker processes of the test, which pytest shows if the test failed."""
        return "\n".join(f"--- {' '.join(worker.command)}\n{worker.log}" for worker in self._processes)

    def _use(self, namespace: str, *queues: str) -> None:
        self._places.setdefault(namespace, {tasks.QUEUE}).update(queues)

    def _log(self) -> Path:
        folder = Path(os.environ[tasks.TRACE])
        return folder / f"worker-{len(self._processes)}.log"

    def _missing(self, part: str) -> NoReturn:
        reason = f"{type(self).__name__} has no {part}()"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}: define it, because the contract needs it")
        self.lacking = reason
        pytest.skip(reason)
