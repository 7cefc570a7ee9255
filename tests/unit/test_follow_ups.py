"""Chains and batches: jobs that follow other jobs, through the public interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from queueport import BatchProgress, JobQueue, JobState, Retry, Task, aio, chain, current_job, get_queue, task
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.lifecycle import COMPLETE_WITHIN
from queueport.errors import BackendUnavailable, DuplicateJob, InvalidJob, JobNotFound, ResultTimeout
from queueport.spi.record import Change
from queueport.spi.store import Insert, Swap, WriteResult
from queueport.stores.memory.store import MemoryStore
from queueport.tasks import registry
from queueport.testing import fake


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with registry.isolated(), get_queue("memory://", call_timeout=0.5) as opened:
        yield opened


def adder() -> Any:  # a task; after `pass_result`, mypy would allow it no arguments
    @task(name="add")
    def add(*numbers: int) -> int:
        return sum(numbers)

    return add


def breaker(broken: list[bool]) -> Task[..., str, Any]:
    @task(name="breaks", retry=Retry(max_attempts=1))
    def breaks() -> str:
        if broken[0]:
            raise ValueError("broken")
        return current_job().id

    return breaks


def run(queue: JobQueue) -> None:
    """Run all jobs that are due."""
    queue.worker("default", threads=2, burst=True).run()


def states(queue: JobQueue, jobs: Sequence[str]) -> list[str]:
    return [queue.status(job).state.value for job in jobs]


def test_each_job_of_a_chain_runs_after_the_one_before_with_its_result(queue: JobQueue) -> None:
    add = adder()
    last = add.using(pass_result=True)
    first = queue.enqueue(chain(add.job(1, 2), last.job(10), last.job(100)))
    second, third = first.follow_ups
    assert states(queue, [first.id, second.id, third.id]) == ["queued", "scheduled", "scheduled"]
    assert (second.status().parents, second.status().children) == ([first.id], [third.id])
    assert [handle.status().pass_result for handle in (first, second, third)] == [False, True, True]
    assert (second.status().waits_for, second.status().next_attempt_at) == (1, None)
    run(queue)
    assert (first.result(0), second.result(0), third.result(0)) == (3, 13, 113)
    assert third.status().waits_for == 0


def test_a_dead_job_stops_its_chain_until_it_is_retried(queue: JobQueue) -> None:
    broken = [True]
    first = queue.enqueue(breaker(broken).using(then=adder().job(1)))
    run(queue)
    assert states(queue, [first.id, first.follow_ups[0].id]) == ["dead", "scheduled"]
    broken[0] = False
    first.retry()
    run(queue)
    assert states(queue, [first.id, first.follow_ups[0].id]) == ["succeeded", "succeeded"]


def test_the_jobs_after_a_cancelled_or_discarded_one_are_cancelled(queue: JobQueue) -> None:
    add, breaks = adder(), breaker([True])
    waiting = queue.enqueue(chain(add.using(delay=60).job(), add.job(), add.job()))
    waiting.cancel()
    died = queue.enqueue(chain(breaks.job(), add.job()))
    run(queue)
    queue.dead_letters.discard(died.id)
    for follower in (*waiting.follow_ups, *died.follow_ups):
        assert (follower.status().state, follower.status().reason) == (JobState.CANCELLED, "parent_cancelled")


def test_a_waiting_job_that_is_retried_runs_now_and_only_once(queue: JobQueue) -> None:
    add = adder()
    first = queue.enqueue(chain(add.using(delay=60).job(), add.job(5)))
    first.follow_ups[0].retry()
    run(queue)
    first.retry()
    run(queue)
    assert first.follow_ups[0].status().attempts == 1


def test_a_result_that_is_not_there_makes_the_job_dead(queue: JobQueue) -> None:
    add = adder()
    first = queue.enqueue(chain(add.using(delay=60).job(), add.using(pass_result=True).job(5)))
    first.follow_ups[0].retry()
    run(queue)
    status = first.follow_ups[0].status()
    assert status.state is JobState.DEAD
    assert status.error is not None
    assert f"the result of job {first.id}, which is scheduled" in status.error.message


def test_then_of_a_batch_runs_once_after_all_its_jobs(queue: JobQueue) -> None:
    add = adder()
    batch = queue.batch([add.job(n) for n in range(20)], then=add.job(7), on_dead=add.job(8))
    then, on_dead = sorted(batch.follow_ups(), key=lambda status: status.args)
    assert (then.waits_for, then.after_batch, then.tags) == (20, batch.id, [])
    assert batch.progress() == BatchProgress(0, 20, 0, 0, 0, 0, 0)
    run(queue)
    assert batch.wait(0) == BatchProgress(0, 0, 0, 0, 20, 0, 0)
    assert batch.progress().ended
    assert (queue.status(then.id).state, queue.status(then.id).attempts) == (JobState.SUCCEEDED, 1)
    assert (queue.status(on_dead.id).state, queue.status(on_dead.id).reason) == (JobState.CANCELLED, "not_needed")
    assert sorted(job.result for job in batch.jobs("succeeded")) == list(range(20))
    assert queue.count(batch=batch.id) == 20
    assert {job.batch for job in batch.jobs()} == {batch.id}


def test_a_dead_job_keeps_its_batch_open_and_calls_on_dead_once(queue: JobQueue) -> None:
    add, broken = adder(), [True]
    breaks = breaker(broken)
    batch = queue.batch([add.job(), breaks.job(), breaks.job()], then=add.job(1), on_dead=add.job(2))
    then, on_dead = (job.id for job in sorted(batch.follow_ups(), key=lambda status: status.args))
    run(queue)
    assert not batch.wait(0).ended
    assert states(queue, [then, on_dead]) == ["scheduled", "succeeded"]
    assert batch.retry() == 2
    run(queue)
    assert batch.progress().dead == 2
    first, second = queue.jobs("dead", batch=batch.id)
    queue.dead_letters.discard(first.id)
    broken[0] = False
    queue.retry(second.id)
    run(queue)
    assert batch.progress() == BatchProgress(0, 0, 0, 0, 2, 0, 1)
    assert states(queue, [then, on_dead]) == ["succeeded", "succeeded"]
    assert queue.status(on_dead).attempts == 1


def test_a_cancelled_job_counts_as_ended_and_counts_once(queue: JobQueue) -> None:
    add = adder()
    batch = queue.batch([add.using(delay=60).job(), add.using(delay=60).job()], then=add.job(1))
    one, other = (job.id for job in batch.jobs())
    queue.cancel(one)
    queue.retry(one)
    run(queue)
    (then,) = batch.follow_ups()
    assert (queue.status(one).state, then.state, then.waits_for) == (JobState.SUCCEEDED, JobState.SCHEDULED, 1)
    queue.cancel(other)
    run(queue)
    assert batch.follow_ups()[0].state is JobState.SUCCEEDED


def test_cancelling_a_batch_cancels_its_jobs_and_what_follows(queue: JobQueue) -> None:
    add = adder()
    batch = queue.batch([add.job() for _ in range(3)], then=chain(add.job(), add.job()), on_dead=add.job())
    assert batch.cancel() == 3
    run(queue)
    assert batch.progress().cancelled == 3
    assert {job.state for job in queue.jobs()} == {JobState.CANCELLED}
    assert batch.cancel() == 0


def test_waiting_for_a_batch_ends_in_time(queue: JobQueue) -> None:
    batch = queue.batch([adder().job()], batch_id="import-7")
    with pytest.raises(ResultTimeout, match="jobs of the batch import-7 still wait or run"):
        batch.wait(0.01)
    assert queue.get_batch("import-7") == batch
    with pytest.raises(JobNotFound, match="no batch 'other' exists"):
        queue.get_batch("other")


def test_the_id_of_a_batch_is_used_once(queue: JobQueue) -> None:
    add = adder()
    queue.batch([add.job(1), add.job(2)], batch_id="import-7")
    one, then = add.job(3), add.job(4)
    with pytest.raises(DuplicateJob, match="a batch with the id 'import-7' exists already") as caught:
        queue.batch([one], then=then, batch_id="import-7")
    assert (caught.value.accepted, {*caught.value.rejected}) == ((), {one.id, then.id})
    assert queue.count() == queue.get_batch("import-7").progress().total == 2


def test_a_batch_is_not_enqueued_if_the_store_cannot_look_for_its_id(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = adder()
    one = add.job(1)

    def find(_: object) -> None:
        raise BackendUnavailable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(queue.operations.store, "find", find)
        queue.batch([add.job(2)])  # an id of its own is new
        with pytest.raises(BackendUnavailable) as caught:
            queue.batch([one], batch_id="import-7")
    assert (caught.value.rejected, queue.count()) == ((one.id,), 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key": "k"}, "cannot have key="),
        ({"delay": 5.0}, "cannot have delay= or run_at="),
    ],
)
def test_options_that_a_following_job_cannot_have(queue: JobQueue, options: Any, text: str) -> None:
    add = adder()
    with pytest.raises(InvalidJob, match=text):
        queue.enqueue(add.using(then=add.using(**options).job()))
    with pytest.raises(InvalidJob, match=text):
        queue.batch([add.job()], then=add.using(**options).job())
    assert queue.count() == 0


def test_wrong_chains_and_batches(queue: JobQueue) -> None:
    add = adder()
    with pytest.raises(InvalidJob, match="a batch needs at least one job"):
        queue.batch([])
    with pytest.raises(InvalidJob, match="pass then= to the batch"):
        queue.batch([add.using(then=add.job()).job()])
    with pytest.raises(InvalidJob, match="has then= already"):
        chain(add.using(then=add.job()).job(), add.job())
    with pytest.raises(InvalidJob, match="follows no job"):
        queue.enqueue(add.using(pass_result=True))
    with pytest.raises(InvalidJob, match="a chain has at most 100 jobs"):
        queue.enqueue(chain(*[add.job() for _ in range(101)]))
    with pytest.raises(InvalidJob, match="must not begin with 'queueport:'"):
        add.using(tags=["queueport:batch:x"])
    with pytest.raises(InvalidJob, match="cannot have pass_result=True, because a batch has no single result"):
        queue.batch([add.job()], then=add.using(pass_result=True).job())
    with pytest.raises(InvalidJob, match="cannot have pass_result=True, because a job that is added to the dead"):
        queue.dead_letters.add(add.using(pass_result=True).job(), "by hand")
    assert queue.count() == 0


def test_what_is_not_a_job_cannot_follow_one(queue: JobQueue) -> None:
    add = adder()
    given: list[Any] = [add, "notify", 7]
    for wrong in given:
        for name in ("then", "on_dead"):
            with pytest.raises(InvalidJob, match=rf"{name} must be a job, for example notify.job\(7\), not"):
                queue.batch([add.job()], **{name: wrong})
        for jobs in ((wrong, add.job()), (add.job(), wrong)):
            with pytest.raises(InvalidJob, match="each argument of chain must be a job"):
                chain(*jobs)
    assert queue.count() == 0


def test_a_batch_takes_a_list_of_jobs(queue: JobQueue) -> None:
    add = adder()
    wrong: list[Any] = [add, add.job(), "add", None]
    for given in wrong:
        with pytest.raises(InvalidJob, match="batch takes a list of jobs"):
            queue.batch(given)
        with pytest.raises(InvalidJob, match="batch takes a list of jobs"):
            asyncio.run(aio.AsyncJobQueue(queue).batch(given))
        with pytest.raises(InvalidJob, match="enqueue_many takes a list of jobs"):
            queue.enqueue_many(given)
    assert queue.count() == 0


def test_a_wrong_id_of_a_batch(queue: JobQueue) -> None:
    with pytest.raises(InvalidJob, match="batch_id must be 1 to 64 letters"):
        queue.batch([adder().job()], batch_id="a b")
    for call in (lambda: queue.get_batch("a b"), lambda: queue.jobs(batch="a b"), lambda: queue.count(batch="a b")):
        with pytest.raises(JobNotFound, match="no batch 'a b' exists in this namespace"):
            call()


def test_a_task_with_a_concurrency_key_cannot_get_the_result_of_another_job(queue: JobQueue) -> None:
    @task(name="per_customer", concurrency=1, concurrency_key=lambda customer, month: customer)
    def per_customer(customer: int, month: int) -> None: ...

    with pytest.raises(
        InvalidJob, match="task 'per_customer' cannot have pass_result=True, because its first argument"
    ):
        per_customer.using(pass_result=True).job(7)
    assert per_customer.job(1, 7).limit_key == "1"


def test_a_batch_that_is_not_accepted_leaves_no_job_that_waits(queue: JobQueue) -> None:
    add = adder()
    queue.enqueue(add.using(job_id="taken").job())
    then, on_dead = add.job(), add.job()
    with pytest.raises(DuplicateJob) as caught:
        queue.batch([add.using(job_id="new").job(), add.using(job_id="taken").job()], then=then, on_dead=on_dead)
    assert caught.value.accepted == ("new",)
    assert {*caught.value.rejected} == {"taken", then.id, on_dead.id}
    assert {job.id for job in queue.jobs()} == {"taken", "new"}


def test_a_chain_whose_follow_up_job_exists_already_enqueues_nothing(queue: JobQueue) -> None:
    add = adder()
    then = add.using(pass_result=True).job(10)
    first = queue.enqueue(add.using(then=then, delay=60).job(1))
    second = add.using(then=then).job(2)
    with pytest.raises(DuplicateJob, match="exists already") as caught:
        queue.enqueue(second)
    assert (caught.value.accepted, caught.value.rejected) == ((), (then.id, second.id))
    run(queue)
    assert {job.id for job in queue.jobs()} == {first.id, then.id}
    first.retry()
    run(queue)
    assert first.follow_ups[0].result(0) == 11


def test_a_batch_whose_follow_up_job_exists_already_enqueues_nothing(queue: JobQueue) -> None:
    add = adder()
    final, alarm = add.using(job_id="final").job(), add.using(job_id="alarm").job()
    batch = queue.batch([add.using(delay=60).job()], then=final)
    with pytest.raises(DuplicateJob) as caught:
        queue.batch([add.using(job_id="a").job(), add.using(job_id="b").job()], then=final, on_dead=alarm)
    assert (caught.value.accepted, {*caught.value.rejected}) == ((), {"final", "alarm", "a", "b"})
    run(queue)
    assert queue.count() == 2
    (then,) = batch.follow_ups()
    assert (then.state, then.waits_for) == (JobState.SCHEDULED, 1)


def test_a_producer_that_is_lost_before_the_first_job_of_a_chain_leaves_nothing_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000_000.0]
    with registry.isolated(), get_queue("memory://") as queue:
        add = adder()
        store = MemoryStore(clock=lambda: now[0])
        monkeypatch.setattr(queue.operations, "store", store)
        monkeypatch.setattr(queue._enqueue, "_store", store)
        insert = store.insert

        def crash(inserts: Sequence[Insert]) -> Sequence[WriteResult]:
            if not all(each.record.waits_for for each in inserts):
                raise KeyboardInterrupt
            return insert(inserts)

        monkeypatch.setattr(store, "insert", crash)
        with pytest.raises(KeyboardInterrupt):
            queue.enqueue(chain(add.job(), add.job(), add.job()))
        now[0] += COMPLETE_WITHIN + 1
        Dispatcher(queue.operations).tick()
        assert {(job.state, job.reason) for job in queue.jobs()} == {(JobState.CANCELLED, "incomplete")}
        assert queue.count() == 2


def test_an_accepted_job_of_a_batch_that_was_refused_releases_nothing_of_a_later_batch(queue: JobQueue) -> None:
    add, breaks = adder(), breaker([True])
    queue.enqueue(add.using(job_id="taken").job())
    final, alarm = add.using(job_id="final").job(), add.using(job_id="alarm").job()
    refused = [add.job(1), breaks.job(), add.using(job_id="taken").job()]
    with pytest.raises(DuplicateJob):
        queue.batch(refused, then=final, on_dead=alarm)
    batch = queue.batch([add.using(delay=60).job(2)], then=final, on_dead=alarm)
    run(queue)
    assert {(job.state, job.waits_for) for job in batch.follow_ups()} == {(JobState.SCHEDULED, 1)}
    queue.retry(next(batch.jobs()).id)
    run(queue)
    assert queue.status("final").state is JobState.SUCCEEDED


def test_a_chain_that_is_accepted_is_kept_beside_one_that_is_not(queue: JobQueue) -> None:
    add = adder()
    queue.enqueue(add.using(job_id="taken").job())
    kept, lost = add.job(), add.job()
    with pytest.raises(DuplicateJob) as caught:
        queue.enqueue_many([add.using(then=kept).job(), add.using(then=lost, job_id="taken").job()])
    assert lost.id in caught.value.rejected
    run(queue)
    assert queue.status(kept.id).state is JobState.SUCCEEDED
    with pytest.raises(JobNotFound):
        queue.status(lost.id)


class LostStore(MemoryStore):
    """Loses the producer: all calls fail after the inserts."""

    lost = False
    answers = True

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        written = super().insert(inserts)
        self.lost = not all(insert.record.waits_for for insert in inserts)
        return written

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        if self.lost:
            self.lost = False
            raise BackendUnavailable("the store does not answer")
        return super().swap(swaps)


def test_jobs_whose_producer_was_lost_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    with registry.isolated(), get_queue("memory://") as queue:
        add = adder()
        store = LostStore(clock=lambda: now[0])
        monkeypatch.setattr(queue.operations, "store", store)
        monkeypatch.setattr(queue._enqueue, "_store", store)
        then = add.job()
        with pytest.raises(BackendUnavailable) as caught:
            queue.batch([add.using(job_id="member", delay=2 * COMPLETE_WITHIN).job()], then=then)
        assert (caught.value.accepted, caught.value.unknown) == (("member",), (then.id,))
        dispatcher = Dispatcher(queue.operations)
        dispatcher.tick()
        assert queue.status(then.id).state is JobState.SCHEDULED
        now[0] += COMPLETE_WITHIN + 1
        dispatcher.tick()
        assert (queue.status(then.id).state, queue.status(then.id).reason) == (JobState.CANCELLED, "incomplete")


def test_results_are_kept_as_long_as_a_job_that_follows_may_read_them() -> None:
    with registry.isolated(), get_queue("memory://", keep_succeeded=0.0) as queue:
        add, broken = adder(), [True]
        first = queue.enqueue(chain(add.job(1), breaker(broken).job(), add.job(2)))
        batch = queue.batch([add.job(3), add.using(delay=60).job(4)], then=add.job())
        run(queue)
        assert first.status().result == 1
        assert batch.progress().succeeded == 1
        queue.dead_letters.discard(first.follow_ups[0].id)
        batch.cancel()
        assert not queue.operations.needed([queue.operations.read(first.id)])


def test_the_jobs_of_a_batch_are_kept_for_a_job_that_runs_if_one_dies() -> None:
    with registry.isolated(), get_queue("memory://", keep_succeeded=0.0) as queue:
        add, broken = adder(), [True]
        batch = queue.batch([add.job(1), add.job(2), breaker(broken).using(delay=60).job()], on_dead=add.job(3))
        run(queue)
        dispatcher = Dispatcher(queue.operations)
        dispatcher.tick()
        assert batch.progress() == BatchProgress(1, 0, 0, 0, 2, 0, 0)
        batch.cancel()  # on_dead is not needed any more
        record = queue.operations.read(next(batch.jobs("succeeded")).id)
        assert not queue.operations.needed([record])


def test_a_dead_on_dead_job_keeps_the_jobs_of_its_batch_after_then_has_succeeded(queue: JobQueue) -> None:
    add, breaks = adder(), breaker([True])
    batch = queue.batch([add.job(1), breaks.job()], then=add.job(2), on_dead=breaks.job())
    run(queue)
    (member,), (dead,) = batch.jobs("succeeded"), batch.jobs("dead")
    queue.dead_letters.discard(dead.id)
    run(queue)
    assert {status.state for status in batch.follow_ups()} == {JobState.SUCCEEDED, JobState.DEAD}
    operations = queue.operations
    assert operations.needed([operations.read(member.id)]) == {member.id}
    queue.dead_letters.purge()
    assert not operations.needed([operations.read(member.id)])


def test_retention_by_count_keeps_the_jobs_of_an_open_batch_and_deletes_others() -> None:
    with registry.isolated(), fake(keep_succeeded="2 jobs") as queue:

        @task(name="total")
        def total() -> int:
            batch = get_queue().get_batch(current_job().after_batch or "")
            return sum(status.result for status in batch.jobs("succeeded"))

        add = adder()
        batch = queue.batch([*(add.job(n) for n in range(5)), add.using(delay=600).job(100)], then=total.job())
        queue.drain()
        others = queue.enqueue_many([add.job(n) for n in range(10)])
        queue.drain()
        queue.advance(60)
        kept = {status.id for status in queue.jobs("succeeded")}
        assert kept == {status.id for status in batch.jobs("succeeded")} | {handle.id for handle in others[-2:]}
        queue.advance(600)
        queue.drain()
        assert [status.result for status in batch.follow_ups()] == [0 + 1 + 2 + 3 + 4 + 100]
        queue.advance(60)
        assert queue.count("succeeded") == 2  # its batch is not open any more


def test_the_expiry_of_a_follow_up_job_counts_from_the_call_that_enqueued_the_chain() -> None:
    with registry.isolated(), fake() as queue:
        add = adder()
        first = queue.enqueue(chain(add.using(delay=60).job(), add.using(expires=30).job()))
        queue.advance(61)
        queue.drain()
        status = first.follow_ups[0].status()
        assert (status.state, status.reason) == (JobState.CANCELLED, "expired")


def test_the_end_of_a_dead_jobs_retention_ends_its_part_of_the_batch() -> None:
    with registry.isolated(), get_queue("memory://", keep_dead=0.0) as queue:
        batch = queue.batch([breaker([True]).job()], then=adder().job())
        run(queue)
        (then,) = batch.follow_ups()
        assert (batch.progress().total, then.state) == (0, JobState.SUCCEEDED)


def test_jobs_without_follow_ups_have_changes_without_releases(queue: JobQueue) -> None:
    record = queue.operations.read(queue.enqueue(adder()).id)
    lifecycle = queue.operations.lifecycle
    change = lifecycle.cancel(record)
    assert not getattr(change, "releases", ())
    assert "released" not in getattr(change, "set", {})
    assert replace(record) == record


def test_a_replay_gets_the_result_of_the_job_before_as_the_first_argument(queue: JobQueue) -> None:
    @task(name="title")
    def title(rows: int, title: str = "no title") -> str:
        return f"{title}: {rows}"

    first = queue.enqueue(chain(adder().job(1, 2), title.using(pass_result=True).job("Report")))
    (second,) = first.follow_ups
    run(queue)
    same, named = queue.replay(second.id), queue.replay(second.id, kwargs={})
    other = queue.replay(second.id, args=[4, "Other"])
    run(queue)
    assert (same.result(0), named.result(0), other.result(0)) == ("Report: 3", "Report: 3", "Other: 4")
    assert (same.status().args, same.status().parents) == ([3, "Report"], [])


def test_a_replay_is_refused_if_the_job_before_has_no_result(queue: JobQueue) -> None:
    add = adder()
    waiting = queue.enqueue(chain(add.using(delay=60).job(1), add.using(pass_result=True).job(2)))
    with pytest.raises(InvalidJob, match=f"the result of job {waiting.id}, which is scheduled: pass all positional"):
        queue.replay(waiting.follow_ups[0].id)
    deleted = queue.enqueue(chain(add.job(1), add.using(pass_result=True).job(2)))
    run(queue)
    record = queue.operations.read(deleted.id)
    queue.operations.apply([(record, Change(delete=True))])
    with pytest.raises(InvalidJob, match="which was deleted"):
        queue.replay(deleted.follow_ups[0].id, kwargs={})
    replay = queue.replay(deleted.follow_ups[0].id, args=[5, 2])
    run(queue)
    assert replay.result(0) == 7


def test_a_replay_of_the_job_after_a_batch_knows_its_batch(queue: JobQueue) -> None:
    @task(name="total")
    def total() -> int:
        batch = get_queue().get_batch(current_job().after_batch or "")
        return sum(status.result for status in batch.jobs("succeeded"))

    batch = queue.batch([adder().job(n) for n in range(3)], then=total.job())
    run(queue)
    (then,) = batch.follow_ups()
    replay = queue.replay(then.id)
    assert replay.status().waits_for == 0
    run(queue)
    assert (then.result, replay.result(0)) == (3, 3)
    assert batch.progress().total == 3


async def _async_batch(queue: JobQueue) -> tuple[BatchProgress, list[Any]]:
    queues = aio.AsyncJobQueue(queue)
    batch = await queues.batch([adder().job(1), adder().job(2)])
    with queue.worker("default", threads=1).start():
        progress = await batch.wait(10)
    assert (await queues.get_batch(batch.id)).id == batch.id
    assert await batch.follow_ups() == []
    assert (await batch.cancel(), await batch.retry()) == (0, 0)
    return progress, [status.result async for status in batch.jobs()]


def test_an_async_batch(queue: JobQueue) -> None:
    progress, results = asyncio.run(_async_batch(queue))
    assert (progress.succeeded, sorted(results)) == (2, [1, 2])
