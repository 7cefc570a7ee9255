"""The pages of Django's admin: jobs and dead letters, read-only, with actions that retry and discard."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from queueport.connect import get_queue
from queueport.contrib.django.models import DeadLetter, Job
from queueport.errors import JobNotFound, QueueportError
from queueport.status import JobState, JobStatus

__all__ = ["DeadLetterAdmin", "JobAdmin"]

PAGE = 100
"""The maximum number of jobs on a page of the list."""
ACTIONS = ("retry", "discard")
"""The names of the actions. An action NAME requires the permission `queueport.NAME_job`."""


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # pyright: ignore[reportMissingTypeArgument]
    """Lists the jobs of `get_queue()`, newest first, and shows one job.

    A user needs the permission `queueport.view_job`; and `queueport.retry_job` and `queueport.discard_job` for the
    actions. Retry runs a dead, cancelled, scheduled or retrying job now; discard removes a dead job.
    """

    state: JobState | None = None
    """The state of the jobs to list. None: jobs in every state, or in the state that the user chooses on the page."""

    def get_urls(self) -> list[URLPattern]:
        """The two pages of this model, under the names that the admin's links use."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        wrap = self.admin_site.admin_view
        return [
            path("", wrap(self.changelist_view), name=f"{name}_changelist"),
            path("<str:object_id>/", wrap(self.change_view), name=f"{name}_change"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody has this permission: only applications enqueue jobs."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Nobody has this permission: the pages show jobs read-only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Nobody has this permission: queueport deletes ended jobs after their retention."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The page with the list. A POST retries or discards the chosen jobs."""
        self._check_view(request)
        if request.method == "POST":
            return self._act(request, request.POST.getlist("job"))
        chosen = {name: request.GET.get(name, "") for name in ("state", "queue", "task", "after")}
        if self.state is not None:
            chosen["state"] = self.state.value
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value}
        found: list[JobStatus] = []
        try:
            found = get_queue().jobs(**given, limit=PAGE)
        except QueueportError as error:
            self.message_user(request, str(error), messages.ERROR)
        context = {
            "jobs": found,
            "chosen": chosen,
            "states": [] if self.state is not None else [state.value for state in JobState],
            "next_page": found[-1].id if len(found) == PAGE else None,
        }
        return self._page(request, "queueport/jobs.html", context | (extra_context or {}))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page with all fields of one job. A POST retries or discards this job."""
        self._check_view(request)
        if request.method == "POST":
            return self._act(request, [object_id])
        shown: dict[str, Any] = {}
        try:
            shown = get_queue().status(object_id).as_dict()
        except JobNotFound as error:
            raise Http404(str(error)) from error
        except QueueportError as error:
            self.message_user(request, str(error), messages.ERROR)
        traceback = (shown.get("error") or {}).pop("traceback", "")
        fields = {name: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for name, v in shown.items()}
        context = {"fields": fields, "traceback": traceback, "title": f"Job {object_id}"}
        return self._page(request, "queueport/job.html", context | (extra_context or {}))

    def _check_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _allowed(self, request: HttpRequest) -> list[str]:
        user: Any = request.user
        return [name for name in ACTIONS if user.has_perm(f"queueport.{name}_job")]

    def _act(self, request: HttpRequest, ids: list[str]) -> HttpResponse:
        action = request.POST.get("action", "")
        if action not in self._allowed(request):
            raise PermissionDenied
        queue, done = get_queue(), 0
        change: Callable[[str], object] = queue.retry if action == "retry" else queue.dead_letters.discard
        for job_id in ids:
            try:
                change(job_id)
                done += 1
            except QueueportError as error:
                self.message_user(request, str(error), messages.ERROR)
        if done:
            self.message_user(request, f"{action}: {done} {'job' if done == 1 else 'jobs'}", messages.SUCCESS)
        name = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_changelist"
        return HttpResponseRedirect(reverse(name))

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": str(self.opts.verbose_name_plural).capitalize(),
            "allowed": self._allowed(request),
        }
        return TemplateResponse(request, template, shared | context)


@admin.register(DeadLetter)
class DeadLetterAdmin(JobAdmin):
    """Lists the dead jobs. A user needs the permission `queueport.view_deadletter`; and `queueport.retry_job` and
    `queueport.discard_job` for the actions.
    """

    state = JobState.DEAD
