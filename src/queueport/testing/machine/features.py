"""The fault search with limits, with jobs that follow others, and with a schedule. Read `steps` first.

Each of these machines has the steps of `LifecycleMachine` too, and is a machine of its own, so that the search without
these features does not find less.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from queueport.job.limits import QueueLimit
from queueport.testing.machine.example import ALL, Reach
from queueport.testing.machine.processes import PLANS
from queueport.testing.machine.promises import Limited
from queueport.testing.machine.steps import LifecycleMachine, half_way, plans, tasks

LINKED = 8
"""The maximum number of jobs in an example with jobs that follow others."""
EVERY = 6.0
"""The seconds between two ticks."""

ONE, SLOW = QueueLimit(concurrency=1), QueueLimit(rate="30/m", burst=1)
LIMITS = {
    "one": Limited(task=ONE),
    "slow": Limited(task=SLOW),
    "one and slow": Limited(task=QueueLimit(concurrency=1, rate="30/m", burst=1)),
    "queue": Limited(queue=ONE),
    "task and queue": Limited(task=SLOW, queue=ONE),
}
"""The limits from which an example with limits has one."""

fates = st.sampled_from(["succeeds", "succeeds", "fails", *(plan for plan in PLANS if plan != "is dead")])
starts: dict[str, Any] = {
    "early": st.booleans(),
    "calm": st.sampled_from([False, False, False, True]),
    "tasks": st.tuples(tasks, tasks),
    "begun": st.booleans(),
}


class LimitMachine(LifecycleMachine):
    """The fault search with a limit of the task "task", of the queue, or of both."""

    points = frozenset({"held"})

    @initialize(**starts, plan=plans, limit=st.sampled_from([*LIMITS]))
    def start(
        self,
        *,
        early: bool,
        calm: bool,
        tasks: Sequence[Sequence[str]],
        plan: str,
        begun: bool,
        limit: str = "one",
    ) -> None:
        """The same as in `LifecycleMachine`, with these of the LIMITS, and with a second job."""
        self.limited = LIMITS[limit]
        super().start(early=early, calm=calm, tasks=tasks, plan=plan, begun=begun)
        self.enqueue(plan="succeeds", task="task", key=None, when=(None, None), reach=ALL)


class FollowUpMachine(LifecycleMachine):
    """The fault search with batches and chains."""

    @initialize(**starts, plan=fates)
    def start(self, *, early: bool, calm: bool, tasks: Sequence[Sequence[str]], plan: str, begun: bool) -> None:
        """The same as in `LifecycleMachine`, but with a batch. With `begun`, two of its jobs begin."""
        super().start(early=early, calm=calm, tasks=tasks, plan=plan, begun=begun)
        if begun:
            self.start_task(1)

    def enqueue_first(self, plan: str) -> None:
        self.enqueue_batch(plans=(plan, "succeeds", "succeeds", "succeeds"), reach=ALL)

    @precondition(lambda self: len(self.on.plans) + 4 <= LINKED)
    @rule(plans=st.tuples(fates, fates, fates, fates), reach=half_way)
    def enqueue_batch(self, *, plans: Sequence[str], reach: Reach) -> None:
        """A producer enqueues a batch of two jobs, with a job that follows them, and one that runs if a job dies."""
        self.on.produce(partial(self.on.application.enqueue_batch, *self.on.batch(plans, "task")), reach)

    @precondition(lambda self: len(self.on.plans) + 3 <= LINKED)
    @rule(plans=st.one_of(st.tuples(fates, fates), st.tuples(fates, fates, fates)), reach=half_way)
    def enqueue_chain(self, *, plans: Sequence[str], reach: Reach) -> None:
        """A producer enqueues a chain of jobs, each of which gets the result of the one before it."""
        self.on.produce(partial(self.on.application.enqueue_linked, self.on.chain(plans, "task")), reach)


class ScheduleMachine(LifecycleMachine):
    """The fault search with a schedule, of which both dispatchers make the jobs."""

    points = frozenset({"documents", "put_document"})

    @initialize(
        **starts,
        plan=fates,
        catch_up=st.sampled_from(["all", "one"]),
        overlap=st.booleans(),
    )
    def start(
        self,
        *,
        early: bool,
        calm: bool,
        tasks: Sequence[Sequence[str]],
        plan: str,
        begun: bool,
        catch_up: str = "all",
        overlap: bool = True,
    ) -> None:
        """The same as in `LifecycleMachine`, but with a schedule instead of a job."""
        self.when = {"every": EVERY, "catch_up": catch_up, "overlap": overlap}
        super().start(early=early, calm=calm, tasks=tasks, plan=plan, begun=begun)

    def enqueue_first(self, plan: str) -> None:
        self.on.schedule(plan, **self.when)
