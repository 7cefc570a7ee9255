"""`World`: the worker and producer processes of a run, and the faults that happen to them. For `run`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from queueport.errors import ConfigurationError
from queueport.spi.url import BackendURL
from queueport.testing.chaos.clock import Clock
from queueport.testing.chaos.ledger import LEDGER, WORKER, Ledger
from queueport.testing.chaos.plan import CLOCKS, SERVERS, Fault, Plan
from queueport.testing.chaos.servers import Servers
from queueport.testing.chaos.tasks import is_long, job_id
from queueport.testing.chaos.verdict import Happened
from queueport.testing.process import WorkerProcess
from queueport.workers.supervisor import KILL_AFTER

__all__ = ["QUEUE", "World", "native_command"]

QUEUE = "default"
BATCH = 10
"""The number of jobs that a producer enqueues at once."""
OWN = ("--processes=2", "--threads=4", "--log-level=warning")
"""Options of queueport's own worker, so that it has child processes to kill."""
NATIVE = {
    "celery": "{python} -m celery -A queueport_celery.worker worker -Q {namespace}.{queue} -n {worker}@%h -c 2 "
    "--without-mingle --without-gossip",
    "dramatiq": "{python} -m dramatiq queueport_dramatiq.worker --processes=1 --threads=4 --worker-fork-timeout=2000 "
    "--queues {queue}",
    "rq": "{python} -m rq.cli worker -w queueport_rq.worker.QueueportWorker -S json -u {broker} {namespace}.{queue}",
}
"""The command of a framework's own worker, by the first part of the URL's scheme."""
GRACE = 2.0
"""The seconds that a worker gives its jobs when it is told to stop; less than the longest job takes."""
END = GRACE + KILL_AFTER + 5.0
"""The seconds that a worker has to end. After GRACE and KILL_AFTER seconds, it kills processes that do not stop."""
HOUR = 3600
"""By how many seconds faults make a worker's clock wrong."""
FAILED_STARTS = 9
"""The number of workers that may end before any worker has run a job. Then the run ends."""
AIM = 5.0
"""The seconds that a fault waits for its worker to run a job."""


def native_command(url: str) -> str:
    """The command of the framework's own worker. Raises ConfigurationError if there is none for this URL."""
    name = BackendURL.parse(url).scheme.partition("+")[0]
    if name not in NATIVE:
        raise ConfigurationError(f"{name} has no workers of its own: leave out --native, or give a --command")
    return NATIVE[name]


class Worker:
    """One place for a worker. If its process ends, another takes its place, under a new name."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.starts = 0
        self.process: WorkerProcess | None = None

    @property
    def name(self) -> str:
        """The name of the present process in the ledger."""
        return f"worker-{self.number}.{self.starts}"


class Producer:
    """One place for a producer process, which is replaced if it ends.

    `batches` are the first and the last number of the jobs of each batch that it has been told to enqueue.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.batches: list[tuple[int, int]] = []


class World:
    """The processes of a run. `command` is the command of another worker than queueport's own; `_start_worker` says
    which names in it are replaced.
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, servers: Servers, environment: Mapping[str, str], command: str | None = None
    ) -> None:
        self.plan = plan
        self.ledger = ledger
        self.servers = servers
        self.happened: list[Happened] = []
        self.unexpected: list[str] = []
        """Workers that ended although nothing had happened to them, with the last line of their output."""
        self._environment = {**os.environ, **environment, LEDGER: str(ledger.folder)}
        self._command = command
        self._workers = [Worker(number) for number in range(plan.workers)]
        self._producers = [Producer() for _ in range(plan.producers)]
        self._clocks: list[Clock] = []
        """The clock of each place for a worker; empty if no fault sets clocks."""
        if any(fault.kind in CLOCKS for fault in plan.faults):
            self._clocks = [Clock(ledger.folder / f"worker-{number}.clock") for number in range(plan.workers)]
        self._orphans: list[WorkerProcess] = []
        """Workers whose first process was killed. Dramatiq's other processes then go on. Nobody waits for the first one
        before `end`, so that no other process gets its id, which is also that of its process group.
        """
        self._offered = 0

    # -- processes ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all workers and producers."""
        for worker in self._workers:
            self._start_worker(worker)
        for producer in self._producers:
            self._start_producer(producer)

    def tend(self, limit: int) -> None:
        """Replace processes that have ended, and let the producers go on until they have offered `limit` jobs.

        Raises ConfigurationError if workers have ended again and again, and none has run a job.
        """
        self.ledger.update()
        for worker in self._workers:
            if worker.process is not None and not worker.process.running:
                output = worker.process.log.strip().splitlines()
                self.unexpected.append(f"{worker.name}: {' '.join(output[-1:])}")
                if len(self.unexpected) >= FAILED_STARTS and not any(
                    each["what"] == "begin" for each in self.ledger.lines
                ):
                    raise ConfigurationError(
                        f"the workers' command ends at once (exit code {worker.process.wait()}): correct it; its last "
                        f"line of output is: {' '.join(output[-1:]) or 'none'}"
                    )
                self._start_worker(worker)
        for producer in self._producers:
            if producer.process is not None and producer.process.poll() is not None:
                self.unexpected.append("a producer ended, see producers.log")
                self._start_producer(producer)
        while self._offered + BATCH <= limit or self._offered < limit == self.plan.jobs:
            first, last = self._offered, min(self._offered + BATCH, limit) - 1
            self._offered = last + 1
            producer = self._producers[(first // BATCH) % len(self._producers)]
            producer.batches.append((first, last))
            self._tell(producer, first, last)

    def wait_for_producers(self) -> None:
        """Close the producers' input, and wait until they have enqueued everything."""
        for producer in self._producers:
            if producer.process is not None:
                producer.process.communicate()
                producer.process = None

    def end(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            self._kill_worker(worker)
        for orphan in self._orphans:
            orphan.kill()
        for producer in self._producers:
            if producer.process is not None:
                producer.process.kill()
                producer.process.communicate()

    def log(self) -> str:
        """The output of all workers that have run."""
        paths = sorted(self.ledger.folder.glob("worker-*.log"))
        return "\n".join(f"--- {path.stem}\n{path.read_text(errors='replace')}" for path in paths)

    def _start_worker(self, worker: Worker) -> None:
        worker.starts += 1
        command = [sys.executable, "-m", "queueport", "worker", f"--queue={QUEUE}", *OWN, f"--grace={GRACE}"]
        if self._command is not None:
            values = {
                "python": sys.executable,
                "namespace": self._environment["QUEUEPORT_NAMESPACE"],
                "queue": QUEUE,
                "worker": worker.name,
                "broker": BackendURL.parse(self.servers.process_url).text.rpartition("+")[2],
            }
            command = [word.format_map(values) for word in shlex.split(self._command)]
        log = self.ledger.folder / f"{worker.name}.log"
        clock = self._clocks[worker.number].environment if self._clocks else {}
        try:
            worker.process = WorkerProcess(command, {**self._environment, **clock, WORKER: worker.name}, log)
        except OSError as error:
            raise ConfigurationError(f"the workers' command cannot be started ({error}): correct it") from error

    def _kill_worker(self, worker: Worker) -> None:
        if worker.process is not None:
            worker.process.kill()
        self._signal_running(worker, signal.SIGKILL)  # processes that have left the process group, such as RQ's

    def _start_producer(self, producer: Producer) -> None:
        """Start a producer, and tell it the batches that an earlier process in this place has not offered."""
        command = [sys.executable, "-m", "queueport.testing.chaos.producer", str(self.plan.lease)]
        with (self.ledger.folder / "producers.log").open("ab") as log:
            producer.process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        self.ledger.update()
        offered = self.ledger.told()
        for first, last in producer.batches:
            if job_id(first) not in offered:
                self._tell(producer, first, last)

    def _tell(self, producer: Producer, first: int, last: int) -> None:
        if producer.process is not None and producer.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended: `tend` replaces it
                producer.process.stdin.write(f"{first} {last}\n".encode())
                producer.process.stdin.flush()

    def _pids(self, worker: Worker, *, long: bool = False) -> list[int]:
        """The processes of this worker that run jobs now, as far as the ledger shows; with `long`, jobs that take at
        least half a second.
        """
        self.ledger.update()
        mine = [line for line in self.ledger.going_on.values() if line["worker"] == worker.name]
        return list({line["pid"] for line in mine if not long or is_long(line["job"])})

    def _signal_running(self, worker: Worker, number: signal.Signals) -> None:
        for pid in self._pids(worker):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    # -- faults ------------------------------------------------------------------------------------

    def carry_out(self, fault: Fault, meanwhile: Callable[[], object]) -> None:
        """Carry out a fault, and record it. `meanwhile` is called again and again while the fault lasts."""
        name = server = ""
        begin = time.monotonic()
        if fault.kind in SERVERS:
            place = self.servers.choose(fault.kind, fault.target)
            server = place.role
            with place.faults[fault.kind]():
                self._wait(fault.seconds, meanwhile)
        else:
            if fault.kind not in ("producer", *CLOCKS):
                self._aim(self._workers[fault.target], meanwhile)
                name, begin = self._workers[fault.target].name, time.monotonic()
            self._actions()[fault.kind](fault.target, meanwhile)
        self.happened.append(Happened(fault.kind, name, begin, time.monotonic(), server))
        self.ledger.write("fault", kind=fault.kind, worker=name, server=server)

    def _wait(self, seconds: float, meanwhile: Callable[[], object]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            meanwhile()
            time.sleep(0.05)

    def _aim(self, worker: Worker, meanwhile: Callable[[], object]) -> None:
        """Wait until the worker runs a long job, at most AIM seconds, so that the fault hits something."""
        deadline = time.monotonic() + AIM
        while time.monotonic() < deadline and not self._pids(worker, long=True):
            meanwhile()
            time.sleep(0.01)

    def _actions(self) -> Mapping[str, Callable[[int, Callable[[], object]], None]]:
        return {
            "kill": self._kill,
            "parent": self._kill_parent,
            "child": self._kill_child,
            "stop": self._stop,
            "roll": self._roll,
            "producer": self._kill_producer,
            "clock-ahead": partial(self._set_clock, HOUR),
            "clock-back": partial(self._set_clock, -HOUR),
        }

    def _kill(self, target: int, _: Callable[[], object]) -> None:
        self._kill_worker(self._workers[target])
        self._start_worker(self._workers[target])

    def _kill_parent(self, target: int, _: Callable[[], object]) -> None:
        worker = self._workers[target]
        if worker.process is not None:
            os.kill(worker.process.pid, signal.SIGKILL)
            self._orphans.append(worker.process)
        self._start_worker(worker)

    def _kill_child(self, target: int, _: Callable[[], object]) -> None:
        worker = self._workers[target]
        for pid in (self._pids(worker, long=True) or self._pids(worker))[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _stop(self, target: int, meanwhile: Callable[[], object]) -> None:
        worker = self._workers[target]
        if worker.process is None:
            return
        worker.process.pause()
        self._signal_running(worker, signal.SIGSTOP)
        self._wait(1.5 * self.plan.lease, meanwhile)
        self._signal_running(worker, signal.SIGCONT)
        worker.process.resume()

    def _set_clock(self, seconds: int, target: int, meanwhile: Callable[[], object]) -> None:
        with self._clocks[target].wrong(seconds):
            self._wait(1.5 * self.plan.lease, meanwhile)

    def _roll(self, target: int, meanwhile: Callable[[], object]) -> None:
        worker = self._workers[target]
        old, name = worker.process, worker.name
        self._start_worker(worker)
        if old is None:
            return
        old.terminate()
        deadline = time.monotonic() + END
        try:
            while old.running and time.monotonic() < deadline:
                meanwhile()
                time.sleep(0.05)
        finally:
            if old.running:
                self.unexpected.append(f"{name}: did not end {END:g} s after SIGTERM, see {name}.log")
                with suppress(ProcessLookupError):
                    os.killpg(old.pid, signal.SIGUSR1)  # each process writes the stacks of its threads to the log
                time.sleep(1.0)
                old.kill()

    def _kill_producer(self, target: int, _: Callable[[], object]) -> None:
        producer = self._producers[target]
        if producer.process is not None:
            producer.process.kill()
            producer.process.communicate()
        self._start_producer(producer)
