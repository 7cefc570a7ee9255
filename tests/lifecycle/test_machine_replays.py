"""An example of the fault search can be replayed: the same steps always make the same writes and the same failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from queueport.spi.record import Record
from queueport.spi.store import JobStore
from queueport.stores.memory.store import MemoryStore
from queueport.testing.machine import LifecycleMachine, LimitMachine
from queueport.testing.machine.scheduler import Fault
from queueport.workers import runner
from tests.lifecycle.broken import ends_any_attempt

ALL = (1000, None)


class Machine(LifecycleMachine):
    def make_store(self, clock: Callable[[], float]) -> JobStore:
        return MemoryStore(clock=clock)


def overtaken(state: Machine) -> None:
    """Run an example with a lost answer, a late answer, the end of a stale attempt, and an interrupted attempt."""
    state.start(early=False, calm=False, tasks=(("task", "other"), ("task",)), plan="fails", begun=True)
    state.enqueue(plan="overruns", task="task", key="k", when=(None, None), reach=(3, Fault.NO_ANSWER))
    state.produce(producer=0, reach=ALL)
    state.heartbeat(process=0, reach=(1, None))
    state.overtake(process=0, reach=(5, None), thawed=True)
    state.dispatch(process=1, twice=False, reach=ALL)
    state.start_task(process=1)
    state.work(process=0, reach=(1, None))
    state.operate(verb="cancel", job=0, reach=ALL)
    state.wait(seconds=1.0, cut_off=None)
    state.work(process=0, reach=ALL)
    state.crash(actor=0)
    state.teardown()


def stale(state: Machine) -> None:
    """Run an example in which a worker is stopped until its job was begun again, and then ends its own attempt."""
    state.start(early=True, calm=False, tasks=(("task", "other"), ("task", "other")), plan="succeeds", begun=False)
    state.work(process=0, reach=(6, None))
    state.freeze(process=0)
    state.overtake(process=0, reach=ALL, thawed=False)
    state.thaw()
    state.work(process=0, reach=ALL)
    state.teardown()


def run(steps: Callable[[Machine], None]) -> tuple[str, Mapping[str, Record | None]]:
    """Run an example. Returns the promise that was broken, or "" if none was, and the records at the end."""
    state = Machine()
    broken = ""
    try:
        steps(state)
    except AssertionError as error:
        broken = str(error).partition("\n")[0]  # pytest may add lines that contain addresses of objects
        state.on.close()  # or the logger of queueport would stay changed for the tests that follow
    return broken, state.on.checker.records


def test_the_same_steps_make_the_same_writes_each_time() -> None:
    first, second = run(overtaken), run(overtaken)
    assert first == second
    assert first[0] == ""


def test_the_same_steps_fail_in_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_end", ends_any_attempt(runner._end))
    first, second = run(stale), run(stale)
    assert first == second
    assert first[0] == "a stale worker moves a job"


def test_if_the_store_does_not_answer_during_a_shutdown_a_finished_attempt_may_count_as_a_crash() -> None:
    state = Machine()
    state.start(early=False, calm=False, tasks=(("task",), ("task",)), plan="succeeds", begun=True)
    state.interrupt(process=0, hangs=False, seconds=4.0, reach=(0, Fault.NO_ANSWER))
    state.work(process=0, reach=ALL)
    state.outage(seconds=10.0)
    state.teardown()
    assert state.on.checker.failed == 1


def test_a_producer_knows_that_its_job_is_rejected_although_the_store_did_not_answer_about_the_holder_of_its_key() -> (
    None
):
    state = Machine()
    state.start(early=False, calm=False, tasks=(("task",), ("task",)), plan="succeeds", begun=False)
    state.enqueue(key="k", plan="succeeds", reach=(1, None), task="task", when=(None, None))
    state.enqueue(key="k", plan="succeeds", reach=(2, Fault.NO_ANSWER), task="task", when=(None, None))
    state.teardown()
    assert state.on.checker.rejected == {"job2"}


def test_an_enqueue_that_was_not_answered_replaces_a_job_only_once() -> None:
    state = Machine()
    state.start(early=False, calm=False, tasks=(("task",), ("task",)), plan="succeeds", begun=False)
    state.enqueue(key="k", plan="succeeds", reach=ALL, task="task", when=(5.0, None))
    state.enqueue(key="k", mode="replace", plan="succeeds", reach=(1, Fault.NO_ANSWER), task="task", when=(5.0, None))
    state.wait(seconds=0.5, cut_off=None)
    state.produce(producer=0, reach=ALL)
    record = state.on.checker.records["job1"]
    assert record is not None
    assert record.wake_at == state.on.checker.now + 4.5
    state.teardown()


@pytest.mark.parametrize(("seconds", "left"), [(1.0, set[int]()), (1.5, {1})])
def test_a_retry_leaves_the_copy_of_an_earlier_death_only_if_it_takes_longer_than_call_timeout(
    seconds: float, left: set[int]
) -> None:
    state = Machine()
    state.start(early=False, calm=True, tasks=(("task", "other"), ("task", "other")), plan="fails", begun=False)
    state.round(seconds=0.5)
    state.round(seconds=0.5)
    state.operate(job=0, reach=(4, None), verb="retry")
    state.enqueue(key=None, plan="succeeds", reach=(1000, None), task="task", when=(None, None))
    state.round(seconds=seconds)
    state.teardown()
    assert {life for _, life in state.on.broker.kept_copies()} == left


def test_a_job_whose_begin_was_repeated_gets_its_heartbeats_although_the_store_does_not_answer_the_next_call() -> None:
    state = Machine()
    state.start(early=False, calm=False, tasks=(("task", "other"), ("task", "other")), plan="succeeds", begun=False)
    state.enqueue(key=None, plan="succeeds", reach=(0, None), task="task", when=(None, None))
    state.work(process=1, reach=(3, Fault.NO_ANSWER))
    state.work(process=1, reach=(2, None))
    state.enqueue(key=None, plan="succeeds", reach=ALL, task="task", when=(None, None))
    state.start_task(process=0)
    state.overtake(process=0, reach=ALL, thawed=False)
    state.teardown()


def test_a_repeated_begin_of_a_job_that_its_limit_holds_changes_only_when_the_job_is_looked_at_again() -> None:
    class WithLimits(LimitMachine, Machine):
        pass

    state = WithLimits()
    tasks = ("task", "other"), ("task", "other")
    state.start(early=False, calm=False, tasks=tasks, begun=False, plan="succeeds", limit="slow")
    state.work(process=0, reach=ALL)
    state.work(process=0, reach=(3, Fault.NO_ANSWER))
    state.teardown()
