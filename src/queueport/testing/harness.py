"""What the contract suite can do to a backend. An adapter's author subclasses `Harness` and fills in the parts.

    class SpoolHarness(Harness):
        def wipe(self, queue: str) -> None: ...

A part that is missing skips the tests that need it, and fails them where `CI` is set: a suite that did not run proves
nothing. Each test has a harness of its own, with a namespace of its own.
"""

from __future__ import annotations

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
from queueport.testing import tasks
from queueport.testing.process import WorkerProcess
from queueport.testing.waiting import eventually

__all__ = ["Harness"]


class Harness:
    """A backend under test, at `url` (its store included), and what is running on it."""

    settings: Mapping[str, Any] = {"lease": 2.0, "lost_after": 2.0, "unknown_after": 2.0, "call_timeout": 2.5}
    """Short, so that recovery can be watched; a server that shares two cores with a dozen processes may take a second
    to answer. Seconds.
    """
    late: float = 1.0
    """Seconds that a job may start after its time; more only where an emulator is slower than what it plays."""
    title: str = ""
    """What the reports call it, such as "rabbitmq (classic) + redis"; without one, the backend's name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"contract_{uuid.uuid4().hex[:12]}"
        self._queues: list[JobQueue] = []
        self._processes: list[WorkerProcess] = []
        self._places: dict[str, set[str]] = {}
        self.lacking: str | None = None
        """The part that a test asked for in vain."""

    # -- parts that an author fills in -------------------------------------------------------------

    def worker_command(self, *options: str) -> Sequence[str]:
        """The command of queueport's own worker; `options` are those of `queueport worker`."""
        return [sys.executable, "-m", "queueport", "worker", tasks.__name__, *options]

    def native_command(self, queues: Sequence[str]) -> Sequence[str] | None:
        """The framework's own worker command for these queues; None where there is no framework."""
        return None

    def restart_backend(self) -> None:
        """Stop the backend, as roughly as it may happen, and start it again with what it kept on disk."""
        self._missing("restart_backend")

    def restart_store(self) -> None:
        """The same for the store; where both are one server, they are restarted together."""
        self._missing("restart_store")

    def wipe(self, queue: str) -> None:
        """Lose the messages that wait in a queue, behind queueport's back. Where a record is the message: nothing."""
        self._missing("wipe")

    def inject(self, queue: str, body: bytes) -> None:
        """Put these bytes into a queue as a message; where a record is the message, add a damaged record with them."""
        self._missing("inject")

    def redeliver(self, job_id: str) -> None:
        """Deliver a message of that job again, whatever became of it; where there are no messages: begin it again."""
        self._missing("redeliver")

    def native_dead(self) -> Sequence[str]:
        """The ids of the jobs in the backend's own dead letters, by the backend's own tools."""
        self._missing("native_dead")

    def redrive(self, job_id: str) -> None:
        """Send that dead letter back to its queue by the backend's own tools."""
        self._missing("redrive")

    def sends_down(self) -> AbstractContextManager[None]:
        """While it is entered, nothing can be sent."""
        self._missing("sends_down")

    def store_down(self) -> AbstractContextManager[None]:
        """While it is entered, the store does not answer; the test does not ask it meanwhile."""
        self._missing("store_down")

    def clean(self) -> None:
        """Leave nothing behind of what this test has made; `used` says where it may be."""

    # -- what the tests use ------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the backend declares."""
        return self.open().capabilities

    def open(self, **settings: Any) -> JobQueue:
        """A queue in this test's namespace, closed with the test; `settings` over the short ones."""
        named = {"namespace": self.namespace, **self.settings, **settings}
        queue = get_queue(self.url, **named)
        self._queues.append(queue)
        self._note(queue.settings.namespace)
        return queue

    def used(self) -> Mapping[str, AbstractSet[str]]:
        """By namespace, the queues that have been worked on or that have a job."""
        for namespace, queues in list(self._places.items()):
            with self.open(namespace=namespace) as queue:
                queues.update(queue.operations.store.stats().queues)
        return self._places

    @contextmanager
    def working(self, queue: JobQueue, *queues: str, **options: Any) -> Iterator[None]:
        """While it is entered, a worker takes jobs: beside the test where the backend can, else in a process."""
        self._note(queue.settings.namespace, *queues)
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
        """A worker process that has announced itself. `options`: those of `queueport worker`."""
        names = queues or (tasks.QUEUE,)
        self._note(self.namespace, *names)
        command = self.native_command(names) if native else None
        if command is None:
            command = self.worker_command(*(f"--queue={name}" for name in names), *options)
        return self.start(command, ready=True, **environment)

    def start(self, command: Sequence[str], *, ready: bool = True, **environment: str) -> WorkerProcess:
        """Any worker command in this test's namespace; `ready`: wait until it has announced itself."""
        queue = self.open()
        before = {worker.name for worker in queue.stats().workers}
        worker = WorkerProcess(command, {**os.environ, **self.environment(), **environment}, self._log())
        self._processes.append(worker)
        if ready:
            eventually(
                lambda: {w.name for w in queue.stats().workers} - before or not worker.running,
                30,
                lambda: f"the worker does not announce itself:\n{worker.log}",
            )
        return worker

    def environment(self) -> dict[str, str]:
        """What a process needs to open the same queue."""
        named = {"url": self.url, "namespace": self.namespace, **self.settings}
        return {f"QUEUEPORT_{name.upper()}": str(value) for name, value in named.items()}

    def end(self) -> None:
        """After the test: stop what runs, close what is open, leave nothing behind."""
        for worker in self._processes:
            worker.clean()
        for queue in self._queues:
            queue.close()
        self.clean()

    def story(self) -> str:
        """What the workers have logged, for the one who looks at a failed test."""
        return "\n".join(f"--- {' '.join(worker.command)}\n{worker.log}" for worker in self._processes)

    def _note(self, namespace: str, *queues: str) -> None:
        self._places.setdefault(namespace, {tasks.QUEUE}).update(queues)

    def _log(self) -> Path:
        folder = Path(os.environ[tasks.TRACE])
        return folder / f"worker-{len(self._processes)}.log"

    def _missing(self, part: str) -> NoReturn:
        reason = f"{type(self).__name__} has no {part}()"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}: write it, the contract needs it")
        self.lacking = reason
        pytest.skip(reason)
