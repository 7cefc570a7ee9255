"""The actions: retry, cancel, discard, purge, pause, resume. For the app. `replay` has the action with a form.

GET shows what an action will change and asks for a confirmation; only POST, with the signed token of that page,
changes anything. Each action is in the audit log before it begins. `changes` runs those that change many jobs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from queueport.engine.arguments import ALIVE, queue_name
from queueport.engine.bulk import BulkChange, cancelling, discarding, purging, retrying
from queueport.engine.operations import Operations
from queueport.queue import REASON, JobQueue
from queueport.spi.store import Query
from queueport.status import WAITING, CancelOutcome, JobState
from queueport.web.dashboard.access import FormTokens, read_form
from queueport.web.dashboard.audit import AuditEntry, AuditLog, client_of
from queueport.web.dashboard.changes import Changes, Count, Plan, failure
from queueport.web.dashboard.pages import Filter, Pages
from queueport.web.dashboard.rendering import Rendering
from queueport.web.dashboard.sources import Source

__all__ = ["ACTIONS", "BULK", "Actions"]

COUNT_SECONDS = 2.0
"""Maximum seconds in which the jobs that an action would change are counted."""
MOST_WAIT = 3.0
"""Maximum seconds that a request waits for the end of an action. The action then goes on in the background."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an action changes: one job, all jobs of a filter, or the queue of the filter."""

    queue: JobQueue
    user: str
    job_id: str
    filter: Filter


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of change of one job, or of a queue."""

    label: str
    """The text of its button."""
    what: str
    """The verb for what it does to its jobs or its queue, such as "discard"."""
    hint: str
    """What happens to the jobs then, for the page that asks for a confirmation."""
    count: Callable[[Target], int]
    """The number of jobs that it would change now."""
    run: Callable[[Target], str]
    """Changes the jobs, and returns a sentence about the outcome."""
    changes: Literal["job", "queue"]
    danger: bool = False


@dataclass(frozen=True, slots=True)
class BulkAction:
    """One kind of change of all jobs that match a filter. `Action` describes the other attributes."""

    label: str
    what: str
    participle: str
    """What has happened to a changed job, such as "discarded"."""
    hint: str
    states: tuple[JobState, ...]
    """The states of the jobs that it changes. Empty: all jobs that wait, and the only filter is the queue."""
    plan: Callable[[Operations, Query], BulkChange]
    danger: bool = False
    changes: ClassVar[str] = "jobs"


def _in_state(*states: JobState) -> Callable[[Target], int]:
    return lambda target: int(target.queue.status(target.job_id).state in states)


def _retry(target: Target) -> str:
    target.queue.retry(target.job_id)
    return "1 job was queued."


def _cancel(target: Target) -> str:
    outcome = target.queue.cancel(target.job_id)
    return {
        CancelOutcome.CANCELLED: "1 job was cancelled.",
        CancelOutcome.REQUESTED: "The job runs, and was asked to stop.",
        CancelOutcome.ALREADY_FINISHED: "Nothing was changed: the job had already ended.",
    }[outcome]


def _discard(target: Target) -> str:
    target.queue.dead_letters.discard(target.job_id)
    return "1 job was discarded."


def _pausing(target: Target) -> int:
    return int(queue_name(target.filter.queue) not in target.queue.paused())


def _pause(target: Target) -> str:
    target.queue.pause(target.filter.queue, reason=f"paused by {target.user} with the dashboard"[:REASON])
    return f"The queue {target.filter.queue} is paused."


def _resume(target: Target) -> str:
    resumed = target.queue.resume(target.filter.queue)
    return f"The queue {target.filter.queue} {'is resumed' if resumed else 'was not paused'}."


ACTIONS: Mapping[str, Action | BulkAction] = {
    "retry": Action(
        "Retry",
        "retry",
        "It runs again with fresh budgets; a scheduled or retrying job runs now.",
        _in_state(JobState.DEAD, JobState.CANCELLED, JobState.SCHEDULED, JobState.RETRYING),
        _retry,
        changes="job",
    ),
    "cancel": Action(
        "Cancel",
        "cancel",
        "A waiting job will not run. A running job is interrupted.",
        _in_state(*WAITING, JobState.RUNNING),
        _cancel,
        changes="job",
        danger=True,
    ),
    "discard": Action(
        "Discard",
        "discard",
        "It leaves the dead letters and becomes cancelled.",
        _in_state(JobState.DEAD),
        _discard,
        changes="job",
        danger=True,
    ),
    "retry-all": BulkAction(
        "Retry all",
        "retry",
        "queued",
        "Each runs again with fresh budgets. A job is skipped if another job holds its key, or if it waited for other "
        "jobs.",
        (JobState.DEAD, JobState.CANCELLED),
        retrying,
    ),
    "discard-all": BulkAction(
        "Discard all",
        "discard",
        "discarded",
        "They leave the dead letters and become cancelled.",
        (JobState.DEAD,),
        discarding,
        danger=True,
    ),
    "cancel-all": BulkAction(
        "Cancel all",
        "cancel",
        "cancelled or asked to stop",
        "Waiting jobs will not run. Running jobs are interrupted.",
        ALIVE,
        lambda operations, query: cancelling(operations, query, ALIVE if query.state is None else [query.state]),
        danger=True,
    ),
    "run-all": BulkAction(
        "Run all",
        "run",
        "queued",
        "They do not wait for their time any more, but run as soon as a worker is free. Jobs that wait for other jobs "
        "are skipped.",
        (JobState.SCHEDULED, JobState.RETRYING),
        retrying,
    ),
    "purge": BulkAction(
        "Purge",
        "cancel",
        "cancelled",
        "The jobs that wait will not run: scheduled, queued and retrying ones. Running jobs go on.",
        (),
        lambda operations, query: purging(operations, query.queue or ""),
        danger=True,
    ),
    "pause": Action(
        "Pause",
        "pause",
        "No worker starts its jobs until it is resumed. Running jobs go on, and new jobs can be enqueued.",
        _pausing,
        _pause,
        changes="queue",
    ),
    "resume": Action(
        "Resume",
        "resume",
        "Workers start its jobs again.",
        lambda target: 1 - _pausing(target),
        _resume,
        changes="queue",
    ),
}
"""The actions by the name in their address."""
BULK: Mapping[str, Mapping[str, BulkAction]] = {
    state.value: {name: each for name, each in ACTIONS.items() if isinstance(each, BulkAction) and state in each.states}
    for state in JobState
}
"""The actions that can change all jobs in a state, by their names."""


class Actions:
    """The handlers of the actions."""

    def __init__(
        self,
        pages: Pages,
        rendering: Rendering,
        tokens: FormTokens,
        audit: AuditLog,
        changes: Changes,
        *,
        allowed: bool,
    ) -> None:
        self._pages = pages
        self._rendering = rendering
        self._tokens = tokens
        self._audit = audit
        self._changes = changes
        self._allowed = allowed

    def confirm(self, request: Request) -> Response:
        """The page that says what an action will change, and asks for a confirmation. Changes nothing."""
        source, action, target = self._asked(request)
        token, cookie = self._tokens.issue(request)
        if isinstance(action, BulkAction):
            plan = self._planned(action, target)
            count, what = plan.total, plan.what
        else:
            count, what = Count(action.count(target)), _what(action, target)
        response = self._rendering.page(
            request,
            "confirm.html",
            source=source,
            action=action,
            count=count,
            what=what,
            token=token,
            back=self._back(request, source, action, target),
            seconds=COUNT_SECONDS,
        )
        self._tokens.finish(request, response, cookie)
        return response

    async def act(self, request: Request) -> Response:
        """Carry out a confirmed action, and go to a page that shows the outcome."""
        source, action, target = self._asked(request)
        form = await read_form(request)
        refusal = self._tokens.refusal(request, form)
        if refusal is not None:
            return self._pages.message(request, 403, refusal)
        if isinstance(action, BulkAction):
            rate, back = rate_of(form.get("rate", "")), self._back(request, source, action, target)

            def start() -> Response:
                return self._changes.start(request, self._planned(action, target, rate), back)

            return await run_in_threadpool(start)
        return await run_in_threadpool(self._act, request, source, action, target)

    def _act(self, request: Request, source: Source, action: Action, target: Target) -> Response:
        entry = self.carry_out(request, source, _what(action, target), lambda: action.run(target))
        audit = self._rendering.url(request, "audit")
        place = self._back(request, source, action, target) if action.changes == "job" else audit
        return RedirectResponse(f"{place}?done={entry.number}", 303)

    def _planned(self, action: BulkAction, target: Target, rate: float | None = None) -> Plan:
        """The change of a bulk action, with the number of jobs that match now. Counts for at most COUNT_SECONDS."""
        operations = target.queue.operations
        query = target.filter.search(operations.store.now)
        if query.state is None and JobState.DEAD in action.states:
            query = replace(query, state=JobState.DEAD)
        change = action.plan(operations, query)
        end = time.monotonic() + COUNT_SECONDS
        counted = [operations.store.count_within(each, end - time.monotonic()) for each in change.queries]
        count = Count(sum(number for number, _ in counted), all(complete for _, complete in counted))
        kind = "waiting" if query.state is None else query.state.value
        conditions = {name: value for name, value in target.filter.conditions().items() if name != "state"}
        among = f" ({', '.join(f'{name} {value}' for name, value in conditions.items())})" if conditions else ""
        what = f"{action.what} {count} {kind} {'job' if count == (1, True) else 'jobs'}{among}"
        return Plan(change, action.label, what, action.participle, count, rate)

    def carry_out(self, request: Request, source: Source, what: str, run: Callable[[], str]) -> AuditEntry:
        """Run an action, with an entry in the audit log. `run` returns a sentence about the outcome.

        Waits at most MOST_WAIT seconds; the action then goes on, and the entry will get the outcome.
        """
        entry = self._audit.begin(*client_of(request), source.name, what)
        ended = Future[None]()
        threading.Thread(target=self._run, args=[entry, run, ended], daemon=True).start()
        with suppress(TimeoutError):
            ended.result(MOST_WAIT)
        return entry

    def _run(self, entry: AuditEntry, run: Callable[[], str], ended: Future[None]) -> None:
        try:
            self._audit.end(entry, run())
        except Exception as error:  # noqa: BLE001  # the audit log must show how an action ended
            self._audit.end(entry, failure(error), failed=True)
        ended.set_result(None)

    def check_allowed(self) -> None:
        """Raise HTTPException if this dashboard is read-only."""
        if not self._allowed:
            raise HTTPException(
                403, "This dashboard is read-only. Start it with --allow-actions, or pass allow_actions=True."
            )

    def _asked(self, request: Request) -> tuple[Source, Action | BulkAction, Target]:
        """The backend, the action and its target in the address. Raises HTTPException."""
        self.check_allowed()
        action = ACTIONS.get(request.path_params["action"])
        if action is None:
            raise HTTPException(404, f"There is no action {request.path_params['action']!r}.")
        source, job_id, chosen = self._pages.source(request), request.query_params.get("id", ""), Filter.of(request)
        if action.changes == "job" and not job_id:
            raise HTTPException(400, "The address names no job.")
        if (action.changes == "queue" or action is ACTIONS["purge"]) and not chosen.queue:
            raise HTTPException(400, "The address names no queue.")
        if action is ACTIONS["purge"] and chosen.conditions().keys() - {"queue"}:
            raise HTTPException(400, f"{action.label} cannot be filtered by anything but the queue.")
        if isinstance(action, BulkAction) and action.states and not (chosen.state or JobState.DEAD in action.states):
            raise HTTPException(400, "The address names no state.")
        if isinstance(action, BulkAction) and action.states and chosen.state not in ("", *action.states):
            raise HTTPException(400, f"{action.label} does not change jobs in the state {chosen.state!r:.80}.")
        return source, action, Target(source.queue, request.state.dashboard_user, job_id, chosen)

    def _back(self, request: Request, source: Source, action: Action | BulkAction, target: Target) -> str:
        """The address of the page that the action was chosen on."""
        if action.changes == "job":
            return self._rendering.url(request, "job", source=source.name, job_id=target.job_id)
        return self._rendering.url(request, "jobs", source=source.name) + target.filter.query()


def _what(action: Action, target: Target) -> str:
    """What the action does, as a command: "discard job 42"."""
    if action.changes == "job":
        return f"{action.what} job {target.job_id}"
    return f"{action.what} the queue {target.filter.queue}"


def rate_of(text: str) -> float | None:
    """The rate in a form, in jobs a second; None if the field is empty. Raises HTTPException."""
    if not text.strip():
        return None
    with suppress(ValueError):
        if 0 < (rate := float(text)) < math.inf:
            return rate
    raise HTTPException(
        400,
        f"{text!r:.80} is not a number of jobs a second, so nothing was changed: write a number above 0, or nothing.",
    )
