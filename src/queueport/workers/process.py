"""`WorkerProcess`: the runner that a driver receives. A pool takes its jobs, or a framework's worker delivers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from queueport.context import EnqueuesJobs
from queueport.engine.batches import call_each
from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable
from queueport.spi.record import Record
from queueport.spi.runner import DeliveryResult, FrameworkWorker, JobRunner, MessageAction, MessageSource, Work
from queueport.spi.store import ClaimingStore
from queueport.tasks import Task
from queueport.workers.attempt import Attempt
from queueport.workers.batcher import Batcher
from queueport.workers.pool import Pool
from queueport.workers.runner import POLL, Ended, Runner

__all__ = ["WorkerProcess"]


class WorkerProcess(Runner, JobRunner):
    """The runner of this process (`Runner`), with the methods that drivers call (`JobRunner`)."""

    def __init__(
        self,
        operations: Operations,
        tasks: Iterable[Task[..., Any, Any]],
        work: Work,
        queue: EnqueuesJobs | None = None,
    ) -> None:
        super().__init__(operations, tasks, work, queue)
        one_at_a_time: Callable[[], bool] = lambda: self.suspects.expected  # noqa: E731
        self._begins: Batcher[bytes, Attempt | MessageAction] = Batcher(self._begin, one_at_a_time)
        self._finishes: Batcher[Ended, Record | None] = Batcher(self.finish_all)

    def pull(self, source: MessageSource | ClaimingStore) -> None:
        Pool(self, source).run()

    def serve(self, framework: FrameworkWorker) -> None:
        try:
            framework.start()
            self.wait()
            if self.work.burst:
                self.work.stop.set()  # after this, `deliver` hands back each job
            framework.pause()
            self.drain()
        finally:
            self.work.stop.set()
            framework.stop()
            self.close()

    def deliver(self, body: bytes) -> DeliveryResult:
        # Wait for a slot before the job is begun, so that the job is not `running` while it waits.
        held = self.receiver.names_coroutine(body) and self._wait_for_slot()
        try:
            with self.begins():
                if self._takes_no_more:
                    return DeliveryResult(self.receiver.release(body))
                found = self._begins.call(body)
            if isinstance(found, MessageAction):
                return DeliveryResult(found)
            if not found.task.is_async:
                return DeliveryResult(MessageAction.ACKNOWLEDGE, self._finishes.call(self.execute(found)))
            held = held or self.coroutine_slots.acquire()
            self.spawn(found, lambda _: self.coroutine_slots.release())
            held = False
            return DeliveryResult(MessageAction.ACKNOWLEDGE)
        finally:
            if held:
                self.coroutine_slots.release()

    def _begin(self, bodies: Sequence[bytes]) -> list[Attempt | MessageAction]:
        """Wait until no suspect runs in this process, then begin the jobs of these messages.

        One thread at a time calls this. If the process must stop taking jobs during the wait, hands the jobs back.
        Returns an attempt or an action for each message.
        """
        if self.suspects.present and not self._wait_for_suspect():
            return call_each(self.receiver.release, bodies, self.receiver.unusable)
        found = self.receiver.begin(bodies, self.work.stop)
        kept = self.suspects.admit([one for one in found if isinstance(one, Attempt)])
        return [one if isinstance(one, MessageAction) or one in kept else MessageAction.ACKNOWLEDGE for one in found]

    def _wait_for_suspect(self) -> bool:
        """Wait until no suspect runs in this process. Returns False if this process must take no more jobs."""
        while self.suspects.present:
            if self._takes_no_more:
                return False
            self.operations.runtime.wait(self.work.stop, POLL)
        return not self._takes_no_more

    def _wait_for_slot(self) -> bool:
        """Wait for a slot for `async def` jobs, and take it. Returns False, without a slot, if this process must take
        no more jobs before a slot is free.
        """
        while not self.coroutine_slots.acquire(timeout=POLL):
            if self._takes_no_more:
                return False
        return True

    @property
    def _takes_no_more(self) -> bool:
        return self.work.stop.is_set() or self.must_exit

    def cancel(self, job_id: str) -> None:
        self.operations.cancel(job_id)

    def wait(self) -> None:
        """Wait until this process must take no more jobs: it is stopped, it must exit, or its burst has ended."""
        idle = 0  # a burst ends after two idle rounds, because a thread may queue a job during the first
        while idle < 2 and not self.operations.runtime.wait(self.work.stop, POLL) and not self.must_exit:
            idle = idle + 1 if self.work.burst and self._finished() else 0

    def _finished(self) -> bool:
        """True if no job is due in the store, none runs in this process, and none that this worker could run is queued.

        Also dispatches the jobs that are due, as `nothing_due` does. False if the store does not answer.
        """
        try:
            return self.nothing_due() and not self.jobs_wait()
        except BackendUnavailable as error:
            self.failures.warning("the worker waits for the store or the backend, and tries again: %s", error)
            return False
