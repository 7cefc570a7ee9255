"""`dashboard_app`: puts the dashboard together as an ASGI app. For applications and `queueport web`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from queueport.errors import ConfigurationError, QueueportError
from queueport.queue import JobQueue
from queueport.web.dashboard.access import Access, Authenticate, FormTokens
from queueport.web.dashboard.actions import BULK, Actions
from queueport.web.dashboard.audit import AuditLog
from queueport.web.dashboard.changes import Changes
from queueport.web.dashboard.history import History
from queueport.web.dashboard.masking import MASKED_NAMES, Masking
from queueport.web.dashboard.pages import Pages
from queueport.web.dashboard.rendering import FOLDER, Rendering
from queueport.web.dashboard.replay import Replay
from queueport.web.dashboard.sources import named

__all__ = ["dashboard_app"]


class Static(StaticFiles):
    """The static files. A browser may keep them, if it asks each time whether they have changed."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def dashboard_app(
    queues: JobQueue | Sequence[JobQueue] | Mapping[str, JobQueue],
    *,
    allow_actions: bool = False,
    password: str | None = None,
    authenticate: Authenticate | None = None,
    mask: str = MASKED_NAMES,
    secret: str | None = None,
) -> ASGIApp:
    """Make the dashboard of one queue or several, as an ASGI app to serve or to mount under a path.

        app.mount("/queueport", dashboard_app(queue, authenticate=lambda request: request.session.get("staff")))

    `queues`: a mapping gives the backends their names on the pages. The caller closes the queues. Without
    `allow_actions`, the pages change nothing. `authenticate` gets each request and returns the name of its user, for
    the audit log, or None to refuse the request. Alternatively, `password` asks the browser for a password, with any
    user name. Without both, only browsers on the same machine may see the pages. `mask` is a regular
    expression for the names of values that are not shown. `secret` signs the forms: set it if several processes
    serve the same dashboard.

    Raises ConfigurationError if there is no queue, a name or an expression is wrong, or the password is empty.
    """
    if password is not None and not password:
        raise ConfigurationError("the password is empty: set one, or leave it out for browsers on this machine only")
    if password is not None and authenticate is not None:
        raise ConfigurationError("password and authenticate exclude each other: choose one")
    sources, masking, audit = named(queues), Masking(mask), AuditLog()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(changes.close)

    app = Starlette(lifespan=lifespan)
    rendering = Rendering(app.router, sources=list(sources.values()), allowed=allow_actions, bulk=BULK)
    pages = Pages(sources, rendering, masking, audit)
    tokens = FormTokens(secret)
    changes = Changes(pages, rendering, tokens, audit)
    actions = Actions(pages, rendering, tokens, audit, changes, allowed=allow_actions)
    replay = Replay(pages, rendering, tokens, masking, actions)
    app.router.routes.extend(
        [
            Mount("/-/static", Static(directory=FOLDER / "static"), name="static"),
            Route("/", pages.overview, name="overview"),
            Route("/audit", pages.audit, name="audit"),
            Route("/find", pages.find, name="find"),
            Route("/{source}/jobs", pages.jobs, name="jobs"),
            Route("/{source}/jobs/{job_id}", pages.job, name="job"),
            Route("/{source}/history", History(pages, rendering).page, name="history"),
            Route("/{source}/changes/{change}", changes.show, methods=["GET"], name="change"),
            Route("/{source}/changes/{change}", changes.abort, methods=["POST"]),
            Route("/{source}/actions/replay", replay.form, methods=["GET"], name="replay"),
            Route("/{source}/actions/replay", replay.act, methods=["POST"]),
            Route("/{source}/actions/{action}", actions.confirm, methods=["GET"], name="confirm"),
            Route("/{source}/actions/{action}", actions.act, methods=["POST"], name="act"),
        ]
    )
    for kind in (QueueportError, HTTPException):
        app.add_exception_handler(kind, pages.failed)
    return Access(app, password, authenticate)
