"""`FakeQueue`: an in-memory queue for tests of an application. A test decides when jobs run.

    def test_signup(job_queue):                       # the fixture of the pytest plugin
        sign_up("ann@example.org")
        job_queue.assert_enqueued(send_welcome, args=("ann@example.org",))
        job_queue.drain()                             # run all jobs that are due
        assert job_queue.succeeded[0].result == "sent"

Jobs run only in `drain` and `adrain`, unless the queue is `inline`. Time passes only in `advance` and `at`, and nothing
but the code of tasks waits in real time. Timeouts do not interrupt jobs. Production code checks, encodes, retries and
keeps the jobs, as on every backend.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from queueport.capability import Capability
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.runtime import ClockReading, Runtime
from queueport.engine.schedules import ScheduleDispatcher
from queueport.errors import JobFailed, ResultTimeout
from queueport.job import Job, JobHandle, Links
from queueport.queue import JobQueue
from queueport.spi.driver import Driver
from queueport.spi.message import Message
from queueport.spi.record import Record
from queueport.spi.runner import Work
from queueport.spi.settings import read
from queueport.spi.store import Query
from queueport.status import JobState, JobStatus
from queueport.stores.driver import MemoryDriver
from queueport.stores.memory.store import MemoryStore
from queueport.tasks import Task, registry
from queueport.testing.expectation import Expected
from queueport.testing.profile import Profiled
from queueport.workers.attempt import Attempt
from queueport.workers.runner import Runner

__all__ = ["FakeQueue"]

R = TypeVar("R")

ALL = 1_000_000
"""The maximum number of jobs in one query, so high that each query returns all jobs of a test."""
MOST_ATTEMPTS = 1000
"""If one call of `drain` or `adrain` has attempted a job this often and the job has not ended, the call raises
AssertionError, because the job probably never ends."""


class FakeRuntime(Runtime):
    """Clocks that start at the present time, in whole seconds, and stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = float(int(super().wall()))  # a whole second, which float and datetime represent exactly

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def read(self) -> ClockReading:
        return ClockReading(self.now, self.now)


class FakeQueue(JobQueue):
    """An in-memory `JobQueue` with its own clock and with methods for tests.

    With `inline`, one attempt of each job of a registered task runs when the job is enqueued, and `enqueue` raises the
    exception of the task. Jobs that follow it run in the same call, when they are due.

    `profile` is the scheme or URL of an installed backend, such as "sqs" or "sqs://eu-west-1?fifo=true". With a
    profile, the queue has the limits and capabilities of that backend, delivers each message twice, and runs jobs in
    random order, except within a group.

    Raises ConfigurationError for a profile that is wrong or not installed, and for a wrong setting.
    """

    def __init__(self, *, inline: bool = False, profile: str | None = None, **settings: Any) -> None:
        self._fake_runtime = FakeRuntime()
        url, chosen = read("memory://", settings)
        store = MemoryStore(clock=self._fake_runtime.wall)
        driver: Driver = MemoryDriver(store)
        if profile is not None:
            driver = Profiled(store, profile)
        super().__init__(url, chosen, driver, store, self._fake_runtime)
        self.operations.pauses.follow()
        self.operations.limits_at_begin.ignore()
        self._inline = inline
        self._shuffles = profile is not None
        self._seen: dict[str, JobStatus] = {}
        """The latest known status of every job, because the records of ended jobs are deleted after their retention."""
        self._dispatcher = Dispatcher(self.operations)
        self._recurring = ScheduleDispatcher(self.operations, registry.tasks())
        self._recurring.make_due()  # the schedules that tasks declare begin now

    # -- time --------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time on the queue's clock, in UTC. It stands still until `advance` or `at` moves it."""
        return datetime.fromtimestamp(self._fake_runtime.now, UTC)

    def advance(self, seconds: float | timedelta) -> None:
        """Move the queue's clock forward. Jobs that become due run in the next `drain` or `adrain`.

        This method also makes the jobs of schedules, one for each tick on the way, cancels waiting jobs that have
        expired, and deletes records whose retention is over. Raises ValueError if `seconds` is negative.
        """
        passing = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        self._set_clock(self._fake_runtime.now + passing)

    def at(self, time: datetime) -> None:
        """Move the queue's clock forward to `time`, with the effects that `advance` has.

        Raises ValueError if `time` is before `now` or has no time zone.
        """
        if time.utcoffset() is None:
            raise ValueError(f"at() takes an aware time, for example datetime.now(UTC): {time!r} has no time zone")
        self._set_clock(time.timestamp())

    def _set_clock(self, now: float) -> None:
        back = self._fake_runtime.now - now
        if back > 0:
            raise ValueError(f"the queue's clock cannot go back by {back:g} s: make a new queue")
        self._remember()
        while (tick := self._recurring.make_due()) is not None and self._fake_runtime.now < tick <= now:
            self._fake_runtime.now = tick
            self._move_due()  # a job that has expired by now does not hold its key any more
        self._fake_runtime.now = now
        self._move_due()

    def _move_due(self) -> None:
        """Do the work of a dispatcher: queue due jobs, cancel expired jobs and delete records after their retention."""
        while self._dispatcher.tick():
            pass

    # -- running jobs ------------------------------------------------------------------------------

    def drain(
        self,
        *,
        queue: str | None = None,
        task: Task[..., Any, Any] | str | None = None,
        limit: int | None = None,
        retries: bool = True,
    ) -> int:
        """Run all due jobs, and retries without their waits, until none is left. Returns the number of attempts.

        This includes due jobs that the tasks enqueue. With `queue` or `task`, only jobs of that queue or task run.
        `limit` is the maximum number of attempts. With `retries=False`, retrying jobs wait until `advance` or `at` has
        made them due. Jobs whose tasks are not registered stay queued. Timeouts do not interrupt a task. A plain task
        runs in this thread, and an `async def` task in a new event loop in another thread. In an async test, use
        `adrain`, which runs `async def` tasks in the event loop of the test. Raises AssertionError if one call has
        attempted a job a thousand times and the job has not ended.
        """
        return self._drain(self.run, Counter(), queue, task, limit=limit, retries=retries)

    async def adrain(
        self,
        *,
        queue: str | None = None,
        task: Task[..., Any, Any] | str | None = None,
        limit: int | None = None,
        retries: bool = True,
    ) -> int:
        """Run jobs as `drain` does, but run `async def` tasks in the running event loop."""
        attempts: Counter[str] = Counter()
        ended = False
        while not ended and (limit is None or attempts.total() < limit):
            waiting: list[tuple[Runner, Attempt]] = []
            hold = functools.partial(self._hold, waiting)
            self._drain(hold, attempts, queue, task, limit=limit, retries=retries)
            for runner, attempt in waiting:
                await asyncio.create_task(_run_async(runner, attempt, self))
            ended = not waiting
        return attempts.total()

    def _hold(self, waiting: list[tuple[Runner, Attempt]], runner: Runner, attempt: Attempt) -> bool:
        """Run the attempt of a plain task and return True. Add the attempt of an `async def` task to `waiting` and
        return False: `_drain` then returns, and `adrain` runs the attempt and calls `_drain` again.
        """
        if not attempt.task.is_async:
            return self.run(runner, attempt)
        waiting.append((runner, attempt))
        return False

    def run(self, runner: Runner, attempt: Attempt) -> bool:
        """Run an attempt and record its end. An `async def` task runs in a new event loop and thread.

        Returns True, so that `_drain` continues.
        """
        if attempt.task.is_async:
            context = contextvars.copy_context()
            run: Callable[[], None] = lambda: asyncio.run(_run_async(runner, attempt, self))  # noqa: E731
            # in a new thread, because an event loop may already run in the present thread
            thread = threading.Thread(target=context.run, args=[run])
            thread.start()
            thread.join()
        else:
            runner.run(attempt)
        return True

    def _drain(
        self,
        run: Callable[[Runner, Attempt], bool],
        attempts: Counter[str],
        queue: str | None,
        task: Task[..., Any, Any] | str | None,
        *,
        limit: int | None,
        retries: bool,
    ) -> int:
        if task is not None and not isinstance(task, Task | str):
            raise TypeError(f"expected a task or the name of a task, not {task!r}: decorate the function with @task")
        known = registry.get(task) if isinstance(task, str) else task
        name = known.name if known is not None else task if isinstance(task, str) else None

        def attempted(runner: Runner, attempt: Attempt) -> bool:
            job = attempt.record
            attempts[job.id] += 1
            assert attempts[job.id] <= MOST_ATTEMPTS, (
                f"job {job.id} of {job.task} was attempted {MOST_ATTEMPTS} times and has not ended: "
                "drain(limit=...) or drain(retries=False) stops earlier"
            )
            return run(runner, attempt)

        self._move_due()
        while found := self._next(queue, name) or (retries and self._retry_now(queue, name)):
            before = attempts.total()
            for record in found:
                if limit is not None and attempts.total() >= limit:
                    return attempts.total()
                if not self.begin(record, attempted):
                    return attempts.total()
            if attempts.total() == before:  # none of these jobs can be begun
                break
            self._move_due()
        return attempts.total()

    def begin(
        self,
        record: Record,
        run: Callable[[Runner, Attempt], bool],
        tasks: Sequence[Task[..., Any, Any]] | None = None,
    ) -> bool:
        """Begin a job as a worker with these tasks (default: all registered tasks) does when it gets the job's message.

        If the job could be begun, `run` is called with the runner and the attempt. Returns False if `run` returns
        False, else True, also if the job could not be begun.
        """
        work = Work((record.queue,), threads=1, grace=0.0)
        runner = Runner(self.operations, registry.tasks() if tasks is None else tasks, work, self.shared)
        body = Message.of(record, self._fake_runtime.now, signer=self.operations.signer).body
        bodies = [body, body] if self._shuffles else [body]  # a broker may deliver a message twice
        begun = runner.receiver.begin(bodies, work.stop)
        return all(run(runner, attempt) for attempt in begun if isinstance(attempt, Attempt))

    def _next(self, queue: str | None, task: str | None) -> list[Record]:
        """The queued jobs of this queue and task (None: any), in the order in which they are to run.

        Jobs of paused queues, and jobs whose tasks are not registered, are left out. Without a profile, jobs with a
        higher priority come first, and jobs of one priority in the order in which they were queued. With a profile, the
        order is random. If the profile has the capability GROUPS, only the oldest job of each group is returned, and
        every job without a group.
        """
        paused = self.operations.pauses.current()
        found = [record for record in self._waiting(JobState.QUEUED, queue, task) if record.queue not in paused]
        if not self._shuffles:
            return sorted(found, key=lambda record: (-record.priority, record.queued_at or 0.0))
        if Capability.GROUPS not in self.capabilities:
            return random.sample(found, len(found))
        firsts = {record.group or record.id: record for record in reversed(found)}
        return random.sample(list(firsts.values()), len(firsts))

    def _retry_now(self, queue: str | None, task: str | None) -> list[Record]:
        """Queue the retrying jobs of this queue and task (None: any) now.

        Returns the jobs that `_next` then returns, or an empty list if no job was retrying.
        """
        waiting = self._waiting(JobState.RETRYING, queue, task)
        for record in waiting:
            self.retry(record.id)
        return self._next(queue, task) if waiting else []

    def _waiting(self, state: JobState, queue: str | None, task: str | None) -> list[Record]:
        """The jobs of this queue and task (None: any) in this state, in the order of their enqueues.

        Jobs whose tasks are not registered are left out.
        """
        found = self.operations.store.find(Query(state=state, queue=queue, task=task, limit=ALL))
        return [record for record in reversed(found) if registry.get(record.task) is not None]

    # -- enqueueing --------------------------------------------------------------------------------

    def _send(self, jobs: Sequence[Job[R]]) -> list[JobHandle[R]]:
        handles = super()._send(jobs)
        # With `unique_for`, the job that keeps a key may have no record any more.
        known = [handle for handle in handles if self.operations.store.get([handle.id]) != [None]]
        for handle in known:
            self._seen[handle.id] = handle.status()
        if self._inline:
            for handle in known:
                self._run_inline(handle.id)
        return handles

    def _run_inline(self, job_id: str) -> None:
        """Run one attempt of a new job at once, even if the job has a delay, and then of the jobs that follow it.

        A job that follows others runs when the last of them has ended. Raises the first exception of a task or of an
        `around_job` hook, or JobFailed if a job is dead for another reason, such as a result that is too large.
        """
        record = self._record(job_id)
        if record.state is JobState.SCHEDULED and not record.waits_for and registry.get(record.task) is not None:
            self.retry(job_id)
        errors: list[BaseException] = []
        due = [job_id]
        for each in due:
            record = self._record(each)
            if record.state is JobState.QUEUED and registry.get(record.task) is not None:
                errors += self._attempted(record)
                self._move_due()
                links = record.links or Links()
                due += [following for following in (links.then, links.on_dead) if following is not None]
        if errors:
            raise errors[0]

    def _attempted(self, record: Record) -> Sequence[BaseException]:
        """Run one attempt of a queued job. Returns what it raised, or JobFailed if it is dead for another reason."""
        raised: list[BaseException] = []

        def run(runner: Runner, attempt: Attempt) -> bool:
            attempt.on_error = raised.append
            return self.run(runner, attempt)

        self.begin(record, run)
        if not raised and self._record(record.id).state is JobState.DEAD:
            try:
                self.result(record.id)
            except JobFailed as error:
                raised.append(error)
        return raised[-1:]

    def _record(self, job_id: str) -> Record:
        return self.operations.read(job_id)

    def check_wait(self, job_id: str) -> None:
        """Raise ResultTimeout if the job has not ended, because no job can run while the caller waits.

        Raises InvalidState if a task waits for its own job, and JobNotFound if there is no such job.
        """
        super().check_wait(job_id)
        record = self._record(job_id)
        if not record.state.final:
            step = "advance() to make it due, then drain()" if record.state is JobState.SCHEDULED else "drain()"
            advice = f"call {step} to run it, before result()"
            if registry.get(record.task) is None:
                advice = f"drain() cannot run it, because no imported module declares its task {record.task}"
            raise ResultTimeout(f"job {job_id} is still {record.state}: {advice}")

    # -- what was enqueued -------------------------------------------------------------------------

    @property
    def enqueued(self) -> list[JobStatus]:
        """The status of every enqueued job, in the order of the enqueues, and of jobs added to the dead letters.

        For a job whose record was deleted, the last status that this object has seen.
        """
        self._remember()
        return list(self._seen.values())

    @property
    def succeeded(self) -> list[JobStatus]:
        """The jobs in `enqueued` that have succeeded, in the order of `enqueued`."""
        return [status for status in self.enqueued if status.state is JobState.SUCCEEDED]

    @property
    def dead(self) -> list[JobStatus]:
        """The jobs in `enqueued` that are dead, in the order of `enqueued`."""
        return [status for status in self.enqueued if status.state is JobState.DEAD]

    def assert_enqueued(
        self,
        task: Task[..., Any, Any] | str,
        *,
        args: Sequence[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        queue: str | None = None,
        delay: float | timedelta | None = None,
        key: str | None = None,
        count: int | None = None,
    ) -> list[JobStatus]:
        """Assert that a job of this task was enqueued with all of the given values. Returns the jobs that match.

        `args` are the positional and `kwargs` the named arguments, as the caller passed them. `delay` (in seconds)
        counts from the enqueue, and also matches a job with a `run_at` at that time. `count` is the exact number of
        jobs that must match; default: one or more. Raises AssertionError, which shows how the most similar job differs
        and lists enqueued jobs, and TypeError if `task` is neither a task nor a name.
        """
        expected = Expected(task, args=args, kwargs=kwargs, queue=queue, delay=delay, key=key)
        return expected.find(self.enqueued, count)

    def assert_nothing_enqueued(self, task: Task[..., Any, Any] | str | None = None) -> None:
        """Assert that no job was enqueued; with `task`, that no job of this task was enqueued.

        Raises AssertionError, which lists enqueued jobs, and TypeError if `task` is neither a task nor a name.
        """
        if task is not None:
            Expected(task).find_none(self.enqueued)
        elif self.enqueued:
            Expected.fail("nothing should be enqueued", self.enqueued)

    def close(self) -> None:
        """Close the queue. The lists and assertions still work, with each job's status at the close."""
        self._remember()
        super().close()

    def _remember(self) -> None:
        """Set the entries of `_seen` for all jobs in the store to their present status, unless the queue is closed."""
        if (self._owner or self)._closed:
            return
        for record in reversed(self.operations.store.find(Query(limit=ALL))):
            self._seen[record.id] = self.operations.status(record)


async def _run_async(runner: Runner, attempt: Attempt, queue: FakeQueue) -> None:
    """Run an `async def` task in this event loop, and record the end of its attempt."""
    limit = queue.operations.limits.result
    if runner.may_start(attempt):
        runner.finish(attempt, await asyncio.create_task(attempt.run_async(limit, queue.shared)))
