"""The lines of the contract in words: `GROUPS`, `LINES` and `PARTS`. For the documentation and the command line.

docs/contract.md is generated from this module, and a unit test compares this module with the tests of the suite. This
module must not import pytest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from queueport.capability import Capability

__all__ = ["GROUPS", "LINES", "PARTS", "Group", "Line", "lines_of", "worse"]

PARTS: Mapping[str, str] = {
    "worker_command": "The command that starts queueport's own worker.",
    "native_command": "The command that starts the framework's own worker for these queues; None if the backend has no "
    "workers of its own.",
    "restart_backend": "Stop the backend, preferably with SIGKILL, and start it again with the data that it kept on "
    "disk.",
    "restart_store": "Stop the store and start it again.",
    "sends_down": "A context manager. Inside it, no message can be sent to the backend.",
    "store_down": "A context manager. Inside it, no call to the store gets an answer, also none from the test's "
    "process.",
    "wipe": "Delete the messages that wait in a queue, without using queueport.",
    "inject": "Put a message with this body into a queue, without using queueport.",
    "redeliver": "Deliver a message of this job once more, even if the job's record was removed.",
    "native_dead": "The ids of the jobs in the backend's own dead letters, read with the backend's own tools.",
    "redrive": "Move a dead-letter copy back to its queue with the backend's own tools.",
    "clean": "Remove everything that the test has created in the backend and in the store.",
}
"""The methods of a `Harness` that an adapter's author can implement, and what each method does."""


@dataclass(frozen=True, slots=True)
class Line:
    """One contract line. The name of each of its tests contains its id, as in `test_E1_headers_arrive`."""

    id: str
    sentence: str
    """What every backend must do."""
    check: str
    """How the suite checks the sentence."""
    needs: tuple[Capability, ...] = ()
    """All tests of the line need these capabilities. If one is missing, the line is skipped."""
    partly: tuple[Capability, ...] = ()
    """Some tests of the line need these capabilities. If one is missing, only these tests are skipped."""
    parts: tuple[str, ...] = ()
    """The parts of the harness that the tests call."""
    quick: bool = False
    """True if the line is in the quick subset: its tests are fast, and often find mistakes in a new adapter."""


@dataclass(frozen=True, slots=True)
class Group:
    """The lines about one topic. `module` is the module in `queueport.testing.contract` that contains their tests."""

    letter: str
    name: str
    module: str
    about: str
    lines: tuple[Line, ...]


ENQUEUE = Group(
    "E",
    "Enqueue",
    "enqueue",
    "Which jobs a queue accepts, how their arguments arrive, and what it refuses.",
    (
        Line(
            "E1",
            "Before a worker runs, a new job has an id, and `status` shows it as `queued`, without attempts, with the "
            "arguments and headers as given. The headers reach the task.",
            "Compares the status of a new job with what was given, then runs a task that returns its headers.",
            quick=True,
        ),
        Line(
            "E2",
            "Arguments and results arrive equal to what was given, with the types of the annotations. Keyword "
            "arguments may have any name, such as `self`.",
            "Sends nested JSON, empty values, Unicode, NUL, very large and very small numbers and `None`; then "
            "`datetime`, `UUID`, `Decimal`, `bytes`, a dataclass and a pydantic model with an alias, as "
            "positional-only, `*args` and `**kwargs` parameters. Names arguments `self`, `task`, `message` and so on.",
            quick=True,
        ),
        Line(
            "E3",
            "`enqueue_many` returns handles in the order of the jobs, and each job runs once. If only a part of a "
            "batch could be sent, `BackendUnavailable` lists the ids in `accepted`, `rejected` and `unknown`; the "
            "accepted jobs run and the rejected jobs never run.",
            "Enqueues 250 jobs of different tasks over two queues. Then the backend or the store fails after four of "
            "ten jobs, with a known and with an unknown outcome.",
            quick=True,
        ),
        Line(
            "E4",
            "Arguments that do not match the task or cannot be serialised raise `InvalidJob` before any I/O, and the "
            "error names the parameter.",
            "Enqueues wrong, missing and excess arguments, and values that JSON would change, such as NaN, a set or "
            "a tuple. Any call to the backend or the store fails the test. No job exists afterwards.",
        ),
        Line(
            "E5",
            "A job that is larger than the limit raises `PayloadTooLarge` before any I/O. If one job of a batch is "
            "too large, no job of the batch is sent.",
            "Runs a job that exactly reaches the limit of payload or message (1 MiB if there is none), and enqueues "
            "one that is a byte larger. Lowers the limits to test batches and headers. The error must name the limit.",
            quick=True,
        ),
        Line(
            "E6",
            "An option that needs a capability which the backend does not declare raises `Unsupported` before any "
            "I/O. `get_queue(require=...)` raises it for each missing capability.",
            "Enqueues with `priority` and with `group` if the backend lacks the capability, and requires each "
            "capability in turn.",
        ),
        Line(
            "E7",
            "While a job with a `key` is alive, enqueueing its task with the same key returns this job, with `created` "
            "False, and logs a warning if the arguments differ; after its end, a new job is made. A dead job whose "
            "key is taken cannot be retried: `DuplicateJob`.",
            "Enqueues the key again while its holder is scheduled, queued, running and retrying, and after it "
            "succeeded, died and was cancelled; with other arguments; and from 8 threads at once.",
        ),
        Line(
            "E8",
            "A given `job_id` is kept. An id that a job already has raises `DuplicateJob`, and the other jobs of the "
            "batch are enqueued. An id consists of 1 to 64 of the characters A-Z, a-z, 0-9, `_` and `-`.",
            "Enqueues an id again alone, in a batch, from 8 threads at once and after the job has ended. If an id "
            "occurs twice in one batch, nothing is sent. Enqueues invalid ids.",
        ),
        Line(
            "E9",
            "If the backend or the store is down, `enqueue` raises `BackendUnavailable` within `call_timeout` + 1 s, "
            "also for a batch for several queues, and a rejected job never runs. A job is `unknown` only if the store "
            "did not answer. The same queue object works once they are up again.",
            "Enqueues while nothing can be sent, while the store refuses the insert, and while the store's answer to "
            "an insert or to a withdrawal is lost; then checks which jobs run, and enqueues the others again.",
            parts=("sends_down",),
            quick=True,
        ),
        Line(
            "E10",
            "Jobs can be enqueued from several threads, from parent and child after a fork, and from greenlets of "
            "gevent and eventlet. None is lost, and none is duplicated.",
            "Enqueues from 8 threads at once. Forks, and enqueues in both processes; in the child also after the "
            "parent has closed the queue. Enqueues in processes that gevent or eventlet has patched, if installed.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "E11",
            "A task that enqueues another task uses the backend of its own worker, in a native worker too.",
            "Lets a function and a coroutine enqueue a job: in a worker in this process, although another queue is "
            "the default; in a native worker; and in a worker of two processes.",
            partly=(Capability.PERSISTENT,),
            parts=("native_command",),
        ),
        Line(
            "E12",
            "A task that is enqueued by name runs like any other, with its options. Jobs of a higher priority start "
            "first. Jobs of one group run in the order in which they were enqueued.",
            "Enqueues by name with options; enqueues seven jobs of different priorities for one thread, and twenty "
            "jobs of two groups for four threads.",
            partly=(Capability.PRIORITY, Capability.GROUPS),
        ),
        Line(
            "E13",
            'With `key_mode="reject"`, enqueueing a key that is taken raises `DuplicateJob`, and the other jobs of the '
            "batch are enqueued.",
            "Enqueues the key again while its holder is scheduled, queued and running, in a batch, and from 8 threads "
            "at once; then after its end.",
        ),
        Line(
            "E14",
            'With `key_mode="replace"`, a waiting job that has the key takes over the arguments, options and run time '
            "of the new job: `replaced`. It does not start earlier, even if its message was sent before. A running job "
            "goes on, and a new job gets the key, so the last call is never lost.",
            "Replaces a job while it is scheduled, queued, retrying and running, in a batch, from its own task, from 8 "
            "threads at once, and from 8 threads while a worker runs the jobs.",
        ),
        Line(
            "E15",
            "With `unique_for`, the key of a job stays taken for this time after the job has succeeded or died, even "
            "if its record is deleted before; after a cancellation, it is free at once.",
            "Enqueues the key again, in each mode, after the job has succeeded, died and been cancelled and after its "
            "record was deleted, until a new job is made; and from 8 threads while a worker runs the job.",
        ),
    ),
)

TIME = Group(
    "S",
    "Time",
    "time",
    "When a job starts, and when it never starts.",
    (
        Line(
            "S1",
            "A job with `delay` or `run_at` starts at its time or at most one second later. A time in the past means "
            "now. `retry` runs a scheduled job now.",
            "Compares the start times of jobs with a delay of 2 s, alone and in a batch.",
        ),
        Line(
            "S2",
            "Times of an hour and of 30 days ahead are accepted. `status` shows such a job as `scheduled` with its "
            "`run_at`; the job does not run, and it can be cancelled.",
            "Enqueues such jobs while a worker runs, reads their status, cancels them and checks that none has run.",
            quick=True,
        ),
        Line(
            "S3",
            "Delayed jobs survive a restart of the backend and of all workers.",
            "Kills the worker, restarts the backend and starts another worker: the job runs at its time, and a later "
            "job is still scheduled.",
            needs=(Capability.PERSISTENT,),
            parts=("restart_backend",),
        ),
        Line(
            "S4",
            "A job whose `expires` passes before it starts never runs. It ends as `cancelled` with the reason "
            "`expired`, and `retry` revives it.",
            "Lets jobs expire before a worker runs, while they are delayed, and while the worker is busy. A job that "
            "has started in time does not expire.",
        ),
    ),
)

STATUS = Group(
    "T",
    "Status and result",
    "status",
    "What `status`, `result` and `jobs` return, and how long records are kept.",
    (
        Line(
            "T1",
            "An id that no job has raises `JobNotFound` in `status`, `result`, `retry` and `cancel`.",
            "Calls all four on the queue and on a handle.",
        ),
        Line(
            "T2",
            "While a job runs, `status` shows `running`, attempt 1, the worker and `started_at`. Afterwards it shows "
            "`succeeded`, the result, and a `finished_at` that is not before `started_at`.",
            "Reads the status while the task waits for the test, and again after its end.",
            quick=True,
        ),
        Line(
            "T3",
            "`result(timeout)` waits for the end and returns a value of the annotated type. `ResultTimeout` is raised "
            "in time. `JobFailed` carries the type, the message and the traceback of the error. An awaited result "
            "needs no thread of its own.",
            "Allows one second for an answer; compares the line number in the traceback; awaits 1,000 results in one "
            "process with fewer than 50 additional threads.",
        ),
        Line(
            "T4",
            "The progress that a task reports is visible in `status` while the job runs.",
            "Reads the progress while the task waits for the test.",
        ),
        Line(
            "T5",
            "`jobs()` filters by state, queue and task, and returns the newest jobs first, in pages.",
            "Compares 15 queries with six known jobs, and reads four pages while new jobs are enqueued.",
        ),
        Line(
            "T6",
            "A result that cannot be serialised, or that is larger than the limit, makes the job dead at once, with "
            "an error that says so.",
            "Returns an `object()`, a result of exactly the limit, and a result with one byte more.",
        ),
        Line(
            "T7",
            "Succeeded jobs are removed after `keep_succeeded`, which is a time or a count, and dead jobs after "
            "`keep_dead`. Jobs that are alive are never removed.",
            "Keeps succeeded jobs for 2 s and dead jobs for 4 s, allowing 2 s for the removal; a task's own "
            "`keep_result` overrides this. Then keeps three succeeded jobs. Jobs that are alive must stay.",
        ),
        Line(
            "T8",
            "Progress that is not a number or not text raises `TypeError`, or `ValueError` if it is not finite, where "
            "the task reports it. Progress of one job never stops the heartbeats of other jobs.",
            "Reports progress of eleven wrong kinds, then a `Decimal` with a message of ten million characters, and "
            "runs for 2.5 leases beside another job.",
        ),
        Line(
            "T9",
            "A job keeps its `tags`. `jobs`, `count` and `dead_letters` find jobs by tag, key, class of the error or "
            "of an ancestor, time of the enqueue and a text in the arguments; a job must match all filters.",
            "Compares 26 queries with four known jobs, of which one waits, one is delayed and two have ended.",
        ),
        Line(
            "T10",
            "`cancel_all`, `dead_letters.retry_all` and `dead_letters.purge` change every job that matches their "
            "filters, and no other job.",
            "Retries, discards and cancels jobs by tag, error and text, beside jobs that do not match.",
        ),
    ),
)

RETRY = Group(
    "R",
    "Retry",
    "retry",
    "Attempts, backoff, retry policies, and `retry` of a job that has ended.",
    (
        Line(
            "R1",
            "A task that always fails is attempted exactly `max_attempts` times, and then the job is dead.",
            "Counts the runs for 1, 2 and 5 attempts, and compares attempts, failures and the error history.",
            quick=True,
        ),
        Line(
            "R2",
            "Between attempts the job is `retrying`, with its error and `next_attempt_at`. The next attempt starts "
            "after the delay of the policy, and at most one second later. A duplicate message does not start it "
            "earlier.",
            "Measures the waits of four policies: constant, exponential, with a maximum and with jitter. Delivers a "
            "duplicate message between two attempts.",
            parts=("redeliver",),
        ),
        Line(
            "R3",
            "`retry_on` and `abort_on` match an error by its class, by a base class or by a name of these. `Abort` "
            "makes the job dead at once. `RetryLater` sets its own delay. With `burns=False` it burns no budget.",
            "Tries 16 combinations of error and policy; compares the delays, attempts and failures of `RetryLater`.",
        ),
        Line(
            "R4",
            "`current_job().attempt` is 1 in the first attempt and increases by one with each further attempt.",
            "Reads it in a task that fails three times.",
        ),
        Line(
            "R5",
            "`retry` runs a dead job again under the same id with fresh budgets. It runs once, even if old messages "
            "of the job arrive. The earlier errors stay in its history.",
            "Delivers old messages before and after the retry of two dead jobs, one of which fails again.",
            parts=("redeliver",),
            quick=True,
        ),
        Line(
            "R6",
            "`retry` of a queued, running or succeeded job raises `InvalidState` and changes nothing. `retry` of a "
            "retrying job runs it now.",
            "Retries a job in each of these states, by handle and by id.",
        ),
        Line(
            "R7",
            "Whatever an exception does when queueport reads its message, traceback or class, its attempt fails, with "
            "a text of limited length, and the worker continues. The same holds for `on_dead` hooks and results.",
            "Raises eleven such exceptions in functions and coroutines, among them one whose message raises "
            "`SystemExit`; ends the event loop, a hook and the check of a result with `SystemExit`.",
        ),
    ),
)

DEAD_LETTERS = Group(
    "D",
    "Dead letters",
    "dead_letters",
    "Jobs that are given up, `on_dead` hooks, unknown tasks, and messages that queueport cannot use.",
    (
        Line(
            "D1",
            "A dead job keeps its task, queue, arguments, headers, counts, error with traceback, error history and "
            "times.",
            "Compares each of them after two failed attempts.",
            quick=True,
        ),
        Line(
            "D2",
            "`list`, `count` and `get` of the dead letters agree with the jobs that died. They filter by queue, task "
            "and error, of which subclasses are found too, and `list` returns pages.",
            "Lets four jobs die in two queues with three errors, and compares the answers. `get` of a job that is "
            "alive raises `JobNotFound`.",
        ),
        Line(
            "D3",
            "`retry`, `retry_all`, `discard` and `purge` change exactly the jobs that their arguments name. `add` "
            "makes a dead job.",
            "Applies each to some of several dead jobs, and compares the states of all of them.",
        ),
        Line(
            "D4",
            "The `on_dead` hook of a task is called once for each death, in the worker that declares the job dead. If "
            "the hook raises an error, the job is dead all the same and the worker continues.",
            "Counts the calls for failed tasks, for a hook that raises, and for a job that has killed its worker.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "D5",
            "A worker leaves a job whose task it does not know to other workers, and no budget is burned. If no live "
            "worker knows the task for `unknown_after`, the job is dead with `UnknownTask`. A task also runs under "
            "its `aliases`.",
            "Starts a worker that knows the task after one that does not, in this process and in another, and waits "
            "for the death of a job whose task no worker knows.",
            partly=(Capability.THREADS, Capability.PERSISTENT),
        ),
        Line(
            "D6",
            "A message that queueport cannot use is logged and put aside, and the worker continues.",
            "Injects seven bodies: not JSON, nested too deeply, not an object, not from queueport, of the wrong shape, "
            "of a newer version, and of a job without a record. Injects 100 damaged messages among ten jobs, or the "
            "number in `QUEUEPORT_CONTRACT_DAMAGED`.",
            parts=("inject",),
            quick=True,
        ),
        Line(
            "D7",
            "The backend's own tools show a dead job in the backend's own dead letters until it is retried or "
            "discarded. A redrive with these tools runs the job again.",
            "Lets three jobs die, then discards, retries and purges them one by one. Redrives another, which dies "
            "again.",
            needs=(Capability.NATIVE_DEAD_LETTERS,),
            parts=("native_dead", "redrive"),
            quick=True,
        ),
    ),
)

CANCEL = Group(
    "C",
    "Cancel",
    "cancel",
    "What `cancel` and `purge` do to a job in each state.",
    (
        Line(
            "C1",
            "`cancel` of a queued, scheduled or retrying job returns `CANCELLED`, and no further attempt starts. "
            "`purge` cancels the waiting jobs of one queue and no others.",
            "Cancels a job in each of these states and purges one of two queues, while a worker runs.",
            quick=True,
        ),
        Line(
            "C2",
            "`cancel` of a running job returns `REQUESTED`. The task sees `cancel_requested`; its Python code is "
            "interrupted, unless `interrupt=False`. The job ends as `cancelled`, even if its worker is killed.",
            "Cancels a busy function, a waiting coroutine, a task that checks for the request, a task that ignores "
            "it, and a job whose worker is then killed.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "C3",
            "`cancel` of a job in a final state returns `ALREADY_FINISHED` and changes nothing.",
            "Compares the status of a succeeded, a dead and a cancelled job before and after.",
        ),
    ),
)

STATS = Group(
    "M",
    "Stats",
    "stats",
    "What `stats` counts, and what `check` reports.",
    (
        Line(
            "M1",
            "The count of each state equals what was done, for each queue and in total, and an empty queue shows "
            "zeros. `depth` is the backend's own count of waiting messages, or `None` without the capability DEPTH.",
            "Compares the counts of 11 jobs in two queues before and after a worker ran, and while jobs run.",
            partly=(Capability.DEPTH,),
            quick=True,
        ),
        Line(
            "M2",
            "`oldest_queued_age` is the age of the oldest queued job, and `None` if no job is queued.",
            "Checks that it grows, and cancels the oldest job.",
        ),
        Line(
            "M3",
            "`workers` lists each live worker with its queues, tasks and last heartbeat. A worker that has stopped or "
            "was killed is removed from the list.",
            "Waits for a heartbeat, stops the worker, and kills one of two workers.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "M4",
            "`processed` and `failed` never decrease. They are exact after SIGKILL, and retention does not change "
            "them.",
            "Reads both while records are removed, and after a job has killed its worker.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "M5",
            "`check` tests what `enqueue` needs, adds no job and leaves nothing behind. It warns if jobs wait in a "
            "queue that no live worker takes jobs from.",
            "Checks before and after a job was enqueued, and while a worker runs.",
        ),
        Line(
            "M6",
            "`history`, and the last hour of `stats`, count what was done exactly, for each queue and task: jobs that "
            "were enqueued, succeeded, died, were retried or cancelled, failed attempts, and the wait and the run time "
            "of each attempt. Refused calls, duplicates and retention count nothing, and SIGKILL loses nothing.",
            "Adds up the history of 11 jobs with known ends and of calls that are refused, and of 11 jobs of which one "
            "has killed its worker.",
            partly=(Capability.PERSISTENT,),
        ),
    ),
)

WORKER = Group(
    "W",
    "Worker",
    "worker",
    "Which jobs a worker takes, how it runs them, and how it ends.",
    (
        Line(
            "W1",
            "A worker takes jobs of its own queues only.",
            "Enqueues jobs in three queues for a worker of two.",
            quick=True,
        ),
        Line(
            "W2",
            "A worker with N threads runs N jobs at the same time, and not more.",
            "Runs four jobs with one thread and with four; with four, jobs of one second take less than two seconds.",
        ),
        Line(
            "W3",
            "Three workers run each of 300 jobs exactly once.",
            "Compares the runs with the jobs, and checks that each worker process took part.",
        ),
        Line(
            "W4",
            "On SIGTERM or `stop`, a worker finishes its running jobs, leaves the other jobs queued, and exits with "
            "code 0. Jobs that still run after the grace period are interrupted and run again elsewhere. No budget is "
            "burned, even if all processes of the worker get the signal.",
            "Stops workers of one and of two processes, and workers in this process. One of the tasks is a function "
            "that cannot be interrupted.",
            partly=(Capability.PERSISTENT, Capability.THREADS),
        ),
        Line(
            "W5",
            "A worker in burst mode ends when no job is due or queued. It also runs the jobs that its jobs enqueue.",
            "Runs 23 jobs, one of which enqueues another, while one more job is delayed by a day. Runs 50 jobs in two "
            "processes.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "W6",
            "`timeout` ends an attempt with `JobTimeout`, which counts as a failure, and the worker continues. If the "
            "code cannot be interrupted, the next attempt starts only after the code has ended, and the budgets of "
            "other jobs in the process are not burned.",
            "Times out a busy function, a waiting coroutine, a `time.sleep` of a minute and a blocked event loop, in "
            "one and in two processes.",
            partly=(Capability.PERSISTENT, Capability.THREADS),
        ),
        Line(
            "W7",
            "More coroutine tasks than the worker has threads run at the same time, and functions run meanwhile. No "
            "more than `coroutines` of them have begun in a process.",
            "Runs 40 coroutines of one second with two threads: more than ten must run at the same time. Runs 12 "
            "coroutines with four threads and `coroutines` 3: exactly three must run at the same time.",
        ),
        Line(
            "W8",
            "A job does not see the context variables of an earlier job. The `around_job` hooks wrap each job, in the "
            "thread of its task.",
            "Sets a context variable in functions and coroutines; compares the order and the threads of two hooks, "
            "for a job that succeeds and for one that fails.",
        ),
        Line(
            "W9",
            "A native worker treats jobs as queueport's own worker does: it runs and retries them, it finishes its "
            "running jobs on SIGTERM, and the jobs of a killed native worker run again.",
            "Starts the framework's own worker command, also for the errors of R7 and the tools of W10. For a backend "
            "without workers of its own there is nothing to check.",
            parts=("native_command",),
        ),
        Line(
            "W10",
            "Profilers, tracers and debuggers work in tasks and in threads that have run jobs.",
            "Calls a function under `cProfile` and under `sys.settrace` in the thread of earlier jobs, some of which "
            "were interrupted.",
        ),
        Line(
            "W11",
            "A task may start processes. They begin with default signal handlers and run none of the worker's code. "
            "On Linux, those that the thread of a task has started end if the attempt is interrupted.",
            "Ends forked processes and programs by SIGTERM, SIGINT and `sys.exit`, and times out a task that waits "
            "for a shell and its child, with queueport's worker and with the framework's own.",
            needs=(Capability.PERSISTENT,),
        ),
        Line(
            "W12",
            "Two seconds after `pause`, no job of the queue starts any more, in a native worker either; running jobs "
            "and other queues go on. Nothing is lost, burned or run twice. Jobs become due, expire and are cancelled "
            "as before. After `resume`, the jobs start within two seconds, even if workers were killed meanwhile.",
            "Pauses a queue with a running job, waiting messages, delayed and expiring jobs, with each kind of worker. "
            "Kills a worker. Pauses a queue twice, and an unused one; compares the stats, also in another namespace.",
            partly=(Capability.PERSISTENT,),
        ),
    ),
)

CRASH = Group(
    "X",
    "Crash",
    "crash",
    "Killed and stopped workers, restarted servers, and lost or repeated messages. The processes are real, and they "
    "are killed with SIGKILL.",
    (
        Line(
            "X1",
            "If a worker is killed while it runs a job, another worker runs the job within lease + 5 s, and one crash "
            "is counted. A job that runs longer than its lease stays with its worker as long as the worker sends "
            "heartbeats.",
            "Kills one of two workers, one process of a worker, and the parent of two processes. Runs a job of 2.5 "
            "leases while a second worker is idle.",
            partly=(Capability.PERSISTENT,),
            quick=True,
        ),
        Line(
            "X2",
            "A job that kills every worker that runs it is dead with `WorkerLost` at the third crash, or at the first "
            "with `crash_limit=1`. Other jobs are run.",
            "Starts one worker more than the job kills.",
            needs=(Capability.PERSISTENT,),
        ),
        Line(
            "X3",
            "A repeated message of a job that has ended, was discarded or was removed by retention starts nothing. If "
            "messages of one job arrive several times, the job runs once.",
            "Delivers messages again after the end, and three times while the job runs and a second worker is idle.",
            parts=("redeliver",),
            quick=True,
        ),
        Line(
            "X4",
            "If the backend is restarted while jobs run, workers reconnect by themselves, every accepted job ends, and "
            "no crash is counted.",
            "Restarts the backend, and in a second run the store, while two workers run 100 jobs.",
            needs=(Capability.PERSISTENT,),
            parts=("restart_backend", "restart_store"),
        ),
        Line(
            "X5",
            "If the store is restarted, or is down for longer than a lease, workers reconnect by themselves, every "
            "accepted job ends, and no crash is counted. A worker that starts while the store is down waits for it.",
            "Runs the test of X4. Makes the store unreachable for 1.5 leases, while two short jobs end and a long one "
            "runs. Starts a worker while the store is unreachable.",
            partly=(Capability.PERSISTENT, Capability.THREADS),
            parts=("restart_backend", "restart_store", "store_down"),
        ),
        Line(
            "X6",
            "If a producer or a worker is killed at any of its steps, every accepted job ends, no job runs twice at "
            "the same time, and the counts are exact.",
            "Kills processes before and after each call to the store, the driver and the transport that they make, "
            "such as insert, publish, begin, heartbeat, swap, acknowledge and bury.",
            needs=(Capability.PERSISTENT,),
        ),
        Line(
            "X7",
            "Jobs whose messages the backend has lost still end, and each runs once.",
            "Deletes the messages of 20 jobs, and then starts a worker.",
            parts=("wipe",),
        ),
        Line(
            "X8",
            "If a message is lost in a queue that is never empty, its job ends within three times `lost_after` plus "
            "2 s, and runs once.",
            "Deletes one message, and keeps the queue full of other jobs.",
            parts=("wipe",),
        ),
        Line(
            "X9",
            "A worker that is stopped for longer than its lease, and then continued, interrupts the job that it has "
            "lost. Its writes are rejected, and the counts stay exact.",
            "Stops a worker with SIGSTOP until another worker runs the job. Continues it while the other attempt runs, "
            "and in a second test after that attempt has ended.",
            needs=(Capability.PERSISTENT,),
        ),
        Line(
            "X10",
            "A job that kills every worker that runs it makes no other job dead: a job with a crash runs its next "
            "attempt alone in its process, so that only the one that kills has a second crash. A native worker does "
            "the same.",
            "Enqueues a job that kills its process and 50 others for a worker of four threads, and starts a new worker "
            "whenever it has been killed. The others succeed, with one crash at most.",
            needs=(Capability.PERSISTENT,),
            parts=("native_command",),
        ),
        Line(
            "X11",
            "Jobs whose messages a worker had fetched, and not begun, when it was killed are run by another worker "
            "within lease + 5 s of the kill, and no crash is counted.",
            "Enqueues 20 jobs for two workers, one of which is killed before its first call of begin. `lost_after` is "
            "a minute, so that the search for lost messages does not find them.",
            needs=(Capability.PERSISTENT,),
        ),
    ),
)

RECURRING = Group(
    "P",
    "Recurring jobs",
    "recurring",
    "The ticks of schedules, and the jobs that they make.",
    (
        Line(
            "P1",
            "Each tick of a schedule makes one job, with the arguments and options of the schedule and the tick in the "
            "header `queueport-tick`, however many workers run. The job starts at most two seconds after its tick.",
            "Adds a schedule with a tick every second, and compares the jobs, their ticks and the times of their "
            "starts; with one worker, and with queueport's own and the native worker side by side.",
            partly=(Capability.PERSISTENT,),
            parts=("native_command",),
        ),
        Line(
            "P2",
            "A paused schedule makes no jobs, and `resume` does not make up for them. A removed schedule makes no more "
            "jobs. `run_now` enqueues a job at once and changes no tick.",
            "Pauses, resumes and removes a schedule with a tick every second, and waits for two ticks each time.",
        ),
        Line(
            "P3",
            "With `overlap=False`, a tick makes no job while the job of an earlier tick is alive.",
            "Lets a job run for two ticks.",
            quick=True,
        ),
        Line(
            "P4",
            'If workers are killed, no tick is lost with `catch_up="all"`, and no tick has two jobs.',
            "Kills four workers one after the other, just before or just after the write that makes the job of a tick, "
            "and compares the jobs with the ticks.",
            needs=(Capability.PERSISTENT,),
        ),
    ),
)

FOLLOW_UPS = Group(
    "F",
    "Follow-up jobs",
    "follow_ups",
    "Chains and batches: jobs that run when others have ended.",
    (
        Line(
            "F1",
            "Each job of a chain starts once, after the job before it has succeeded, and with `pass_result` gets its "
            "result as the first argument. `status` shows parents and children.",
            "Runs a chain of three jobs, and compares their results and times.",
            quick=True,
        ),
        Line(
            "F2",
            "If a job of a chain is dead, the next job waits until it is retried or discarded. If a job is cancelled "
            "or discarded, the jobs after it are cancelled, with the reason `parent_cancelled`. `retry` of a waiting "
            "job runs it.",
            "Cancels the first of three jobs; discards a dead job, and retries one that dies again.",
        ),
        Line(
            "F3",
            "The follow-up job of a batch starts once, after all jobs of the batch have ended, also if the last of "
            "them end at once.",
            "Lets two jobs wait for the same file, after 20 others have ended, and compares the attempts.",
        ),
        Line(
            "F4",
            "A dead job keeps its batch open until it is retried or discarded; cancelled jobs count as ended. The job "
            "`on_dead` starts once, when the first job dies.",
            "Lets two jobs of a batch die twice, cancels one, and discards the dead ones.",
        ),
        Line(
            "F5",
            "`Batch.cancel` cancels the jobs of the batch that wait and the jobs that follow it.",
            "Cancels a batch before a worker runs.",
        ),
        Line(
            "F6",
            "If workers are killed, no follow-up job is lost, and none runs without a crash twice.",
            "Kills two workers that run 20 batches, and compares the attempts of the follow-up jobs.",
            needs=(Capability.PERSISTENT,),
        ),
    ),
)

LIMITS = Group(
    "L",
    "Limits",
    "limits",
    "How many jobs of a task, a key or a queue run at a time, or start in a time.",
    (
        Line(
            "L1",
            "No more jobs of a task run at a time than its `concurrency`, over all workers, native ones too. Every job "
            "ends, with one attempt.",
            "Lets two workers of several threads run 12 jobs, of which two may run at a time, and compares the times.",
            parts=("native_command",),
        ),
        Line(
            "L2",
            "With `concurrency_key`, the limit holds for the jobs of each key by themselves. Jobs of one key do not "
            "block those of another.",
            "Runs all jobs of one key while those of another key wait.",
            quick=True,
        ),
        Line(
            "L3",
            "No more jobs of a task start than its `rate` and `burst` allow. Every job ends.",
            "Compares the times at which eight jobs have begun, each with each.",
        ),
        Line(
            "L4",
            "The limit of a queue that is set while workers run takes effect within two seconds. If it is lifted, the "
            "jobs that wait for it start.",
            "Sets a limit of one, enqueues four jobs two seconds later, and lifts the limit.",
        ),
        Line(
            "L5",
            "The slot of a killed worker comes free when its lease has lapsed, and not before.",
            "Kills a worker that runs the only job that may run, while another job waits, and starts a new worker.",
            needs=(Capability.PERSISTENT,),
        ),
        Line(
            "L6",
            "A job that waits for a limit is `queued` with the `reason` `limited`. It burns no attempt and uses no "
            "thread: jobs of other tasks run.",
            "Runs five jobs with two threads, while four jobs wait for one that runs.",
            quick=True,
        ),
    ),
)

HYGIENE = Group(
    "H",
    "Hygiene",
    "hygiene",
    "Closing, namespaces, passwords, wrong input, and data of earlier versions.",
    (
        Line(
            "H1",
            "`close` may be called twice. Afterwards every operation raises `QueueClosed`. An operation that is in "
            "progress in another thread ends, or raises an error that says that the queue is closed. A queue that was "
            "obtained without a URL is shared, and `close` has no effect on it.",
            "Calls seven operations of a closed queue and its handles. Closes a queue in two threads, while others "
            "call it. Closes the worker's queue in a task.",
            quick=True,
        ),
        Line(
            "H2",
            "Two namespaces on one server do not share jobs, ids, keys, counts or workers.",
            "Enqueues the same id and key in both, runs a worker in one and purges the other.",
            quick=True,
        ),
        Line(
            "H3",
            "No password of the backend or the store appears in a repr, a log, an error, a traceback, the result of "
            "`check` or the output of the command line.",
            "Searches all of them for the password of 18 URLs, of this backend, and of a store.",
            partly=(Capability.PERSISTENT,),
        ),
        Line(
            "H4",
            "A wrong URL, scheme, option, number or filter, a missing package and a store of the wrong kind raise "
            "`ConfigurationError` with one sentence that says what to do.",
            "Opens 13 wrong URLs, opens a queue without a URL, makes workers with wrong options, and lists and purges "
            "jobs with wrong queues, states, limits and pages.",
        ),
        Line(
            "H5",
            "A worker runs registered tasks only. Only the record decides which task runs, with which options: a "
            "message that names another task changes nothing, and no attempt is counted for it.",
            "Enqueues the names of functions that are not tasks. Replaces a job's message by one that names another "
            "task, which the worker knows or does not know, and compares the attempts and the retry policy.",
            parts=("inject",),
            quick=True,
        ),
        Line(
            "H6",
            "Records and messages of the previous version of their format are read. A message of a newer version is "
            "rejected.",
            "Reads samples that the package contains, and runs the jobs of the records.",
        ),
        Line(
            "H7",
            "With `signing_key`, workers, native ones too, run jobs whose messages are signed with one of its keys. "
            "They put aside messages that are unsigned, changed, or signed with another key or for another namespace, "
            "and no attempt is counted. A worker without a key runs signed jobs. A backend that sends no messages "
            "refuses the setting. No key is shown.",
            "Injects four forged messages in place of those of jobs, and later the right ones. Enqueues with each of "
            "two keys. Searches reprs, logs, errors and the result of `check` for the key.",
            parts=("inject", "native_command"),
        ),
    ),
)

GROUPS: tuple[Group, ...] = (
    *(ENQUEUE, TIME, STATUS, RETRY, DEAD_LETTERS, CANCEL, STATS, WORKER, CRASH, RECURRING, FOLLOW_UPS, LIMITS, HYGIENE),
)
"""The groups in the order of the suite."""

LINES: Mapping[str, Line] = {line.id: line for group in GROUPS for line in group.lines}
"""The lines by their ids, in the order of the suite."""


def lines_of(test: str) -> list[str]:
    """The ids of the contract lines that the test with this name checks. The name may contain several ids, or none."""
    ids = re.match(r"test_((?:[A-Z][0-9]+_)+)", test)
    return [] if ids is None else ids[1].split("_")[:-1]


def worse(before: str | None, outcome: str) -> str:
    """The outcome of a line after one more test: failed if a test has failed, skipped if all were skipped, else passed.

    `before` is the outcome of the line before this test (None: no test has ended), and `outcome` is that of the test.
    """
    if before is None or before.startswith("skipped") or outcome == "failed":
        return outcome
    return before
