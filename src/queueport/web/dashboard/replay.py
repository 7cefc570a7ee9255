"""Edit and replay: a form with the arguments of a job, which enqueues a new job like it. For the app.

GET shows the form, and POST with its signed token enqueues the job. If that fails, the form comes back with the reason
and the text that was sent. Hidden values are not in the form; they are put back when it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from queueport.engine.replay import with_result
from queueport.errors import InvalidJob
from queueport.job import new_id
from queueport.job.arguments import decode_json
from queueport.status import JobStatus
from queueport.tasks import registry
from queueport.web.dashboard.access import FormTokens, read_form
from queueport.web.dashboard.actions import Actions
from queueport.web.dashboard.masking import Masking, unmasked
from queueport.web.dashboard.pages import Pages
from queueport.web.dashboard.rendering import Rendering
from queueport.web.dashboard.sources import Source
from queueport.web.dashboard.text import EDITABLE, editable

__all__ = ["Replay"]

FORM_LIMIT = 20 * EDITABLE
"""The maximum number of bytes of the form: two texts, each character of which can take nine bytes."""
FIELDS: Mapping[str, tuple[str, type, str]] = {
    "args": ("the positional arguments", list, "array"),
    "kwargs": ("the named arguments", dict, "object"),
}
"""The fields of the form: how it names each of them, the type of its value, and the name of this type in JSON."""


class Replay:
    """The handlers of the form."""

    def __init__(
        self, pages: Pages, rendering: Rendering, tokens: FormTokens, masking: Masking, actions: Actions
    ) -> None:
        self._pages = pages
        self._rendering = rendering
        self._tokens = tokens
        self._masking = masking
        self._actions = actions

    def form(self, request: Request) -> Response:
        """The form with the arguments of the job in the address. Changes nothing."""
        source, job, problem = self._asked(request)
        return self._page(request, source, job, self._texts(job), problem)

    async def act(self, request: Request) -> Response:
        """Enqueue a job with the arguments in the form, and go to its page; or show the form again."""
        self._actions.check_allowed()
        form = await read_form(request, FORM_LIMIT)
        refusal = self._tokens.refusal(request, form)
        if refusal is not None:
            return self._pages.message(request, 403, refusal)
        return await run_in_threadpool(self._act, request, form)

    def _act(self, request: Request, form: Mapping[str, str]) -> Response:
        source, job, _ = self._asked(request)
        texts = self._texts(job)
        sent = {name: form.get(name, "").replace("\r\n", "\n") for name, text in texts.items() if text is not None}
        try:
            changed = {name: self._value(job, name, text) for name, text in sent.items() if text != texts[name]}
        except ValueError as error:
            return self._page(request, source, job, texts | sent, str(error))
        made = new_id()

        def run() -> str:
            source.queue.replay(job.id, changed.get("args"), changed.get("kwargs"), new_id=made)
            return f"Job {made} was enqueued."

        what = f"replay job {job.id}{' with other arguments' if changed else ''}"
        entry = self._actions.carry_out(request, source, what, run)
        if entry.failed:
            return self._page(request, source, job, texts | sent, entry.outcome)
        shown = job.id if entry.outcome is None else made  # the new job may not exist yet
        place = self._rendering.url(request, "job", source=source.name, job_id=shown)
        return RedirectResponse(f"{place}?done={entry.number}", 303)

    def _asked(self, request: Request) -> tuple[Source, JobStatus, str | None]:
        """The backend and the job in the address, with all its arguments; or why one of these is not known.

        Raises HTTPException, and JobNotFound.
        """
        self._actions.check_allowed()
        job_id = request.query_params.get("id", "")
        if not job_id:
            raise HTTPException(400, "The address names no job.")
        source = self._pages.source(request)
        operations, problem = source.queue.operations, None
        record = operations.read(job_id)
        try:
            record = with_result(record, operations.store)
        except InvalidJob as error:
            problem = str(error)
        return source, operations.status(record), problem

    def _shown(self, job: JobStatus) -> dict[str, Any]:
        return {"args": self._masking.args(job), "kwargs": self._masking.value(job.kwargs)}

    def _texts(self, job: JobStatus) -> dict[str, str | None]:
        """The texts of the fields; None for one that is too long to be edited, which then does not change."""
        return {name: editable(value) for name, value in self._shown(job).items()}

    def _value(self, job: JobStatus, name: str, text: str) -> Any:
        """The value that a field contains, with the hidden values. Raises ValueError."""
        label, kind, called = FIELDS[name]
        try:
            value = decode_json(text.encode(errors="surrogatepass"), f"The text of {label}")
        except InvalidJob as error:
            raise InvalidJob(f"{error}.") from None
        if not isinstance(value, kind):
            raise InvalidJob(f"The text of {label} must be a JSON {called}.")
        return unmasked(value, self._shown(job)[name], getattr(job, name), name)

    def _page(
        self,
        request: Request,
        source: Source,
        job: JobStatus,
        texts: Mapping[str, str | None],
        problem: str | None = None,
    ) -> Response:
        token, cookie = self._tokens.issue(request)
        response = self._rendering.page(
            request,
            "replay.html",
            200 if problem is None else 400,
            source=source,
            job=job,
            fields=[(name, FIELDS[name][0], FIELDS[name][2], text) for name, text in texts.items()],
            problem=problem,
            known=registry.get(job.task) is not None,
            token=token,
            back=self._rendering.url(request, "job", source=source.name, job_id=job.id),
        )
        self._tokens.finish(request, response, cookie)
        return response
