"""The actions: retry, cancel, discard, purge, pause, resume. For the app. `replay` has the action with a form.

GET shows what an action will change and asks for a confirmation; only POST, with the signed token of that page,
changes anything. Each action is in the audit log before it begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from queueport.errors import QueueportError
from queueport.queue import REASON, JobQueue
from queueport.spi.url import hidden
from queueport.status import WAITING, CancelOutcome, JobState
from queueport.web.dashboard.access import FormTokens
from queueport.web.dashboard.audit import AuditEntry, AuditLog
from queueport.web.dashboard.pages import Filter, Pages
from queueport.web.dashboard.rendering import Rendering
from queueport.web.dashboard.sources import Source

__all__ = ["ACTIONS", "Actions", "read_form"]

FORM_LIMIT = 10_000
"""The maximum number of bytes of a form."""
MOST_WAIT = 3.0
"""Maximum seconds that a request waits for the end of an action. The action then goes on in the background."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an action changes: one job, all jobs of a filter, or the queue of the filter."""

    queue: JobQueue
    user: str
    job_id: str
    filter: Filter

    @property
    def dead(self) -> dict[str, Any]:
        """The filter as arguments of `DeadLetters.count`, `retry_all` and `purge`. Raises ConfigurationError."""
        return {name: value for name, value in self.filter.arguments().items() if name != "state"}


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of change."""

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
    changes: Literal["job", "jobs", "queue"]
    """Whether it changes one job, all jobs of a filter, or a queue."""
    danger: bool = False


def _in_state(*states: JobState) -> Callable[[Target], int]:
    return lambda target: int(target.queue.status(target.job_id).state in states)


def _waiting(target: Target) -> int:
    counts = target.queue.stats().queues[target.filter.queue]
    return sum(getattr(counts, state.value) for state in WAITING)


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


def _were(count: int, change: str) -> str:
    return f"1 job was {change}." if count == 1 else f"{count:,} jobs were {change}."


def _pausing(target: Target) -> int:
    return int(target.filter.queue not in target.queue.paused())


def _pause(target: Target) -> str:
    target.queue.pause(target.filter.queue, reason=f"paused by {target.user} with the dashboard"[:REASON])
    return f"The queue {target.filter.queue} is paused."


def _resume(target: Target) -> str:
    resumed = target.queue.resume(target.filter.queue)
    return f"The queue {target.filter.queue} {'is resumed' if resumed else 'was not paused'}."


ACTIONS: Mapping[str, Action] = {
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
    "retry-all": Action(
        "Retry all",
        "retry",
        "Each runs again with fresh budgets. A job stays dead if another job holds its key.",
        lambda target: target.queue.dead_letters.count(**target.dead),
        lambda target: _were(target.queue.dead_letters.retry_all(**target.dead), "queued"),
        changes="jobs",
    ),
    "discard-all": Action(
        "Discard all",
        "discard",
        "They leave the dead letters and become cancelled.",
        lambda target: target.queue.dead_letters.count(**target.dead),
        lambda target: _were(target.queue.dead_letters.purge(**target.dead), "discarded"),
        changes="jobs",
        danger=True,
    ),
    "purge": Action(
        "Purge",
        "cancel",
        "The jobs that wait will not run: scheduled, queued and retrying ones. Running jobs go on.",
        _waiting,
        lambda target: _were(target.queue.purge(target.filter.queue), "cancelled"),
        changes="jobs",
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


class Actions:
    """The handlers of the actions."""

    def __init__(
        self, pages: Pages, rendering: Rendering, tokens: FormTokens, audit: AuditLog, *, allowed: bool
    ) -> None:
        self._pages = pages
        self._rendering = rendering
        self._tokens = tokens
        self._audit = audit
        self._allowed = allowed

    def confirm(self, request: Request) -> Response:
        """The page that says what an action will change, and asks for a confirmation. Changes nothing."""
        source, action, target = self._asked(request)
        token, cookie = self._tokens.issue(request)
        count = action.count(target)
        response = self._rendering.page(
            request,
            "confirm.html",
            source=source,
            action=action,
            count=count,
            what=_what(action, target, count),
            token=token,
            back=self._back(request, source, action, target),
        )
        self._tokens.finish(request, response, cookie)
        return response

    async def act(self, request: Request) -> Response:
        """Carry out a confirmed action, and go to a page that shows the outcome."""
        source, action, target = self._asked(request)
        refusal = self._tokens.refusal(request, await read_form(request))
        if refusal is not None:
            return self._pages.message(request, 403, refusal)
        return await run_in_threadpool(self._act, request, source, action, target)

    def _act(self, request: Request, source: Source, action: Action, target: Target) -> Response:
        what = _what(action, target, action.count(target))
        entry = self.carry_out(request, source, what, lambda: action.run(target))
        audit = self._rendering.url(request, "audit")
        place = self._back(request, source, action, target) if action.changes == "job" else audit
        return RedirectResponse(f"{place}?done={entry.number}", 303)

    def carry_out(self, request: Request, source: Source, what: str, run: Callable[[], str]) -> AuditEntry:
        """Run an action, with an entry in the audit log. `run` returns a sentence about the outcome.

        Waits at most MOST_WAIT seconds; the action then goes on, and the entry will get the outcome.
        """
        address = "unknown" if request.client is None else request.client.host
        entry = self._audit.begin(request.state.dashboard_user, address, source.name, what)
        ended = Future[None]()
        threading.Thread(target=self._run, args=[entry, run, ended], daemon=True).start()
        with suppress(TimeoutError):
            ended.result(MOST_WAIT)
        return entry

    def _run(self, entry: AuditEntry, run: Callable[[], str], ended: Future[None]) -> None:
        try:
            self._audit.end(entry, run())
        except QueueportError as error:
            self._audit.end(entry, f"It failed: {hidden(str(error))}", failed=True)
        except Exception as error:  # noqa: BLE001  # the audit log must show how an action ended
            self._audit.end(entry, f"It failed: {type(error).__name__}: {hidden(str(error))}", failed=True)
        ended.set_result(None)

    def check_allowed(self) -> None:
        """Raise HTTPException if this dashboard is read-only."""
        if not self._allowed:
            raise HTTPException(
                403, "This dashboard is read-only. Start it with --allow-actions, or pass allow_actions=True."
            )

    def _asked(self, request: Request) -> tuple[Source, Action, Target]:
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
        return source, action, Target(source.queue, request.state.dashboard_user, job_id, chosen)

    def _back(self, request: Request, source: Source, action: Action, target: Target) -> str:
        """The address of the page that the action was chosen on."""
        if action.changes == "job":
            return self._rendering.url(request, "job", source=source.name, job_id=target.job_id)
        return self._rendering.url(request, "jobs", source=source.name) + target.filter.query()


def _what(action: Action, target: Target, count: int) -> str:
    """What the action does, as a command: "discard 3 dead jobs (queue emails)"."""
    if action.changes == "job":
        return f"{action.what} job {target.job_id}"
    if action.changes == "queue":
        return f"{action.what} the queue {target.filter.queue}"
    kind = "waiting" if action is ACTIONS["purge"] else "dead"
    conditions = {name: value for name, value in target.filter.conditions().items() if name != "state"}
    among = f" ({', '.join(f'{name} {value}' for name, value in conditions.items())})" if conditions else ""
    return f"{action.what} {count:,} {kind} {'job' if count == 1 else 'jobs'}{among}"


async def read_form(request: Request, limit: int = FORM_LIMIT) -> dict[str, str]:
    """The fields of an HTML form. Raises HTTPException if it has more than `limit` bytes or is something else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Only HTML forms are accepted here.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise HTTPException(413, "The form is too large.")
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
