"""The endpoints for Starlette, and as an ASGI app of their own. `pip install 'queueport[web]'`.

app = Starlette(routes=[*my_routes, *jobs_routes(Endpoints(show={"result"}))])

$ QUEUEPORT_URL=sqlite:///jobs.db uvicorn --factory queueport.web.asgi:jobs_app
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from queueport.aio import AsyncJobQueue
from queueport.connect import get_queue
from queueport.errors import ConfigurationError, NeedsExtra, Unsupported
from queueport.spi.url import hidden
from queueport.web.endpoints import Answer, Endpoints
from queueport.web.events import Events
from queueport.web.openapi import document

with NeedsExtra("web", __name__):
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

__all__ = ["get_job_queue", "handler", "jobs_app", "jobs_routes"]


def jobs_app(endpoints: Endpoints | None = None) -> Starlette:
    """An app of these endpoints, by default `Endpoints()`, and of `/openapi.json`, which describes them.

    Other paths and methods are answered with JSON too. If `Endpoints.queue` is None, the server does not start while
    QUEUEPORT_URL is missing or wrong. This is not so if the app is mounted in another app.
    """
    endpoints = Endpoints() if endpoints is None else endpoints
    described = document(endpoints)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(described)

    routes = [*jobs_routes(endpoints), Route("/openapi.json", openapi)]
    app = _App if endpoints.queue is None else Starlette
    return app(routes=routes, exception_handlers={HTTPException: _problem})


class _App(Starlette):
    """Opens the default queue when the server starts. If it cannot be opened, the start fails with one sentence."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await asyncio.to_thread(get_queue)
            except (ConfigurationError, Unsupported) as error:  # Starlette would send a traceback
                await receive()
                await send({"type": "lifespan.startup.failed", "message": f"error: {hidden(str(error))}"})
                return
        await super().__call__(scope, receive, send)


async def _problem(_request: Request, error: Exception) -> Response:
    code, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    text = {404: "there is nothing at this path: see /openapi.json", 405: "use the method GET"}
    return JSONResponse({"error": text.get(code, "the request failed")}, code, headers)


def jobs_routes(endpoints: Endpoints | None = None) -> list[Route]:
    """The routes of these endpoints, by default `Endpoints()`, for an app of Starlette.

    If `Endpoints.queue` is None, the queue is that of the app's lifespan, see `get_job_queue`.
    """
    endpoints = Endpoints() if endpoints is None else endpoints
    return [Route(each.path, handler(endpoints, name), name=name) for name, each in endpoints.included.items()]


def handler(endpoints: Endpoints, name: str) -> Callable[[Request], Awaitable[Response]]:
    """The handler of one endpoint, for a route of Starlette or FastAPI. Never blocks the event loop."""

    async def respond(request: Request) -> Response:
        headers, job_id = request.headers, request.path_params.get("job_id", "")
        opened: AsyncJobQueue | None = getattr(request.app.state, "job_queue", None)
        chosen = endpoints if opened is None or endpoints.queue is not None else replace(endpoints, queue=opened.sync)
        answer: Answer | Events
        if name == "live":  # without a thread: all threads may wait for a store that does not answer
            answer = chosen.live()
        else:
            answer = await asyncio.to_thread(
                chosen.respond,
                name,
                job_id=job_id,
                accept=headers.get("accept", ""),
                last_event_id=headers.get("last-event-id", ""),
            )
        if not isinstance(answer, Events):
            return Response(answer.body, answer.code, answer.headers, answer.media_type)
        if request.method == "HEAD":  # a stream would occupy the connection until the job has ended
            return Response(None, answer.code, answer.headers, answer.media_type)
        return StreamingResponse(answer, answer.code, answer.headers, answer.media_type)

    return respond


def get_job_queue(connection: HTTPConnection) -> AsyncJobQueue:
    """The queue of the app's lifespan (`queueport.contrib.fastapi.job_queue_lifespan`), else the default queue."""
    opened: AsyncJobQueue | None = getattr(connection.app.state, "job_queue", None)
    return AsyncJobQueue(get_queue()) if opened is None else opened
