"""X6: producers and workers that die at each of their steps, see `faulty`. For the contract suite."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from queueport import Capability, JobHandle, JobQueue, JobState, Retry
from queueport.errors import JobNotFound
from queueport.testing import faulty
from queueport.testing.case import Case, needs
from queueport.testing.faulty import FAULT, Fault
from queueport.testing.harness import Harness
from queueport.testing.process import WorkerProcess
from queueport.testing.tasks import add, asleep, fail, spin
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Killed"]

TWICE = Retry(max_attempts=2, initial=0.2)


class Killed(Case):
    """The line X6: whatever dies between two steps, every accepted job ends, and none runs twice at once."""

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_X6_a_worker_killed_at_each_step(self, harness: Harness, queue: JobQueue, trace: Trace, when: str) -> None:
        faults = {f"step-{number}": fault for number, fault in enumerate(faulty.worker_faults(queue, when))}
        workers = {name: doomed_worker(harness, name, fault) for name, fault in faults.items()}
        good: list[JobHandle[Any]] = []
        bad: list[JobHandle[None]] = []

        def all_dead() -> bool:
            counts = queue.stats().queues
            for name in [name for name, worker in workers.items() if worker.running]:
                if counts[name].total == counts[name].succeeded + counts[name].dead:  # it has nothing left to do
                    jobs = [task.using(queue=name).job(0.8) for task in (spin, asleep)]
                    good.extend(queue.enqueue_many([*jobs, spin.using(queue=name, delay=0.3).job(0.0)]))
                    bad.append(queue.enqueue(fail.using(queue=name, retry=TWICE).job()))
            return all(not worker.running for worker in workers.values())

        eventually(all_dead, 30, lambda: [str(faults[name]) for name, worker in workers.items() if worker.running])
        assert {worker.wait() for worker in workers.values()} == {-signal.SIGKILL}
        harness.process(*workers)
        for handle in good:
            handle.result(30)
        eventually(lambda: all(handle.status().state is JobState.DEAD for handle in bad), 30)
        statuses = [handle.status() for handle in (*good, *bad)]
        assert max(status.crashes for status in statuses) <= 1, "its queue had one worker that died"
        assert {status.failures for status in statuses} == {0, 2}
        assert queue.stats().processed == len(statuses)
        assert queue.stats().failed == sum(status.failures + status.crashes for status in statuses)

    @needs(Capability.PERSISTENT)
    def test_X6_a_producer_killed_at_each_step(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        faults = {f"step-{number}": fault for number, fault in enumerate(faulty.producer_faults(queue))}
        words = ("enqueue", add.name, "1")
        for name, fault in faults.items():  # one after the other: what else runs here needs its share of the processors
            producer = harness.start(command(harness, *words, f"--id={name}"), ready=False, **{FAULT: str(fault)})
            assert producer.wait() == -signal.SIGKILL
        harness.process()
        for name, fault in faults.items():
            if fault == Fault("before", "store.insert"):
                with pytest.raises(JobNotFound):
                    queue.status(name)
            else:
                assert queue.result(name, 15) == 2
                assert trace.times(name) == 1


def doomed_worker(harness: Harness, queue: str, fault: Fault) -> WorkerProcess:
    """A worker of that queue that its fault will kill, once it has started: many at once would starve other tests."""
    words = harness.worker_command(f"--queue={queue}", "--threads=4")
    words = command(harness, *words[words.index("worker") :])
    return harness.start(words, ready=True, **{FAULT: str(fault)})


def command(harness: Harness, *words: str) -> list[str]:
    """A command of queueport's that dies as the environment says."""
    sound = list(harness.worker_command())
    before = sound[: sound.index("worker")]
    return [faulty.__name__ if word == "queueport" else word for word in before] + list(words)
