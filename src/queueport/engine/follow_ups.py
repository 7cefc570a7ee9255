"""Links jobs that depend on each other, before they are enqueued. For `JobQueue` and `Batch`.

A job that follows others is inserted with them, and waits in the store: `docs/protocol.md#jobs-that-follow-others`
specifies the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from queueport.errors import InvalidJob
from queueport.hooks import call_before_enqueue
from queueport.job import Job, Links, check_job

__all__ = ["linked_batch", "linked_chain"]

LONGEST_CHAIN = 100
"""The maximum number of jobs of a chain."""


def linked_chain(job: Job[Any]) -> list[Job[Any]]:
    """The job and those that follow it, in order, each with its links, after the `before_enqueue` hooks.

    Raises InvalidJob if one of them has an option that a job of a chain cannot have.
    """
    jobs = _expanded(job)
    if len(jobs) == 1:
        return jobs
    return _linked(jobs, Links())


def linked_batch(
    batch_id: str,
    members: Sequence[Job[Any]],
    then: Job[Any] | None,
    on_dead: Job[Any] | None,
) -> tuple[list[Job[Any]], list[Job[Any]]]:
    """The jobs that follow the batch, in the order in which they must be inserted, and the jobs of the batch.

    Raises InvalidJob if one of them has an option that it cannot have.
    """
    follows = Links(after_batch=batch_id, waits_for=len(members))
    after = [] if then is None else _linked(_expanded(check_job("then", then)), follows)
    failed = replace(follows, if_dead=True)
    dead = [] if on_dead is None else _linked(_expanded(check_job("on_dead", on_dead)), failed)
    links = Links(batch=batch_id, then=after[0].id if after else None, on_dead=dead[0].id if dead else None)
    found = []
    for member in map(call_before_enqueue, members):
        if member.options.then is not None:
            raise InvalidJob(f"job {member.id} of a batch cannot have then=: pass then= to the batch")
        found.append(_with(member, links))
    return [*reversed(dead), *reversed(after)], found


def _expanded(job: Job[Any]) -> list[Job[Any]]:
    jobs, following = list[Job[Any]](), job
    while True:
        prepared = call_before_enqueue(following)
        jobs.append(prepared)
        if prepared.options.then is None:
            return jobs
        if len(jobs) == LONGEST_CHAIN:
            raise InvalidJob(f"a chain has at most {LONGEST_CHAIN} jobs: let its last job enqueue further ones")
        following = prepared.options.then


def _linked(jobs: Sequence[Job[Any]], first: Links) -> list[Job[Any]]:
    """The jobs of a chain with their links. `first` are those of the first job to jobs before it."""
    found = []
    for number, job in enumerate(jobs):
        links = first if number == 0 else Links(after=jobs[number - 1].id, waits_for=1)
        then = jobs[number + 1].id if number + 1 < len(jobs) else None
        found.append(_with(job, replace(links, then=then)))
    return found


def _with(job: Job[Any], links: Links) -> Job[Any]:
    options = job.options
    if options.key is not None:
        raise InvalidJob(f"job {job.id} cannot have key=, because it belongs to a chain or a batch")
    if links.waits_for and (options.delay is not None or options.run_at is not None):
        raise InvalidJob(
            f"job {job.id} cannot have delay= or run_at=, because it runs when the jobs before it have ended"
        )
    if options.pass_result and links.after_batch is not None:
        raise InvalidJob(
            f"job {job.id} cannot have pass_result=True, because a batch has no single result: read the results of its "
            "jobs with get_queue().get_batch(current_job().after_batch).jobs()"
        )
    if options.pass_result and links.after is not None:
        links = replace(links, pass_result=True)
    return replace(job, links=links)
