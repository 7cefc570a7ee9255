"""FastAPI and Starlette: an `AsyncJobQueue` for handlers. `pip install 'queueport[fastapi]'`.

    from queueport.contrib.fastapi import JobQueueDep, job_queue_lifespan

    app = FastAPI(lifespan=job_queue_lifespan())

    @app.post("/signup", status_code=202)
    async def sign_up(email: str, queue: JobQueueDep) -> dict[str, str]:
        handle = await queue.enqueue(send_welcome, email)
        return {"job": handle.id}

`Stats`, `Health` and `JobStatus` can be response models. `jobs_router` adds the endpoints of `queueport.web`:

    app.include_router(jobs_router(Endpoints(show={"result"})))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from queueport import AsyncJobQueue, get_queue
from queueport.errors import NeedsExtra
from queueport.web import ENDPOINTS, Endpoints

with NeedsExtra("fastapi", __name__):
    from fastapi import APIRouter, Depends, Request, Response
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse

    from queueport.web.asgi import get_job_queue, handler

__all__ = ["JobQueueDep", "get_job_queue", "job_queue_lifespan", "jobs_router"]


def job_queue_lifespan(
    url: str | None = None, **settings: Any
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Make a lifespan that opens a queue when the app starts and closes it when the app ends.

    `url` and `settings` are those of `get_queue`. Without them, handlers get the process's default queue. This default
    queue is opened when the app starts, so that a wrong QUEUEPORT_URL makes the start fail, but the queue stays
    open when the app ends. If the app has another lifespan, enter the new lifespan inside that other lifespan:
    `async with job_queue_lifespan()(app): ...`. The start of the app raises ConfigurationError and Unsupported.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        queue = await asyncio.to_thread(get_queue, url, **settings)
        if url is None and not settings:
            yield  # the default queue stays open; each request asks for it again, so a test may replace it
            return
        async with AsyncJobQueue(queue) as opened:
            app.state.job_queue = opened
            try:
                yield
            finally:
                del app.state.job_queue

    return lifespan


JobQueueDep = Annotated[AsyncJobQueue, Depends(get_job_queue)]
"""Annotate a parameter of a handler with this type to get the queue: `queue: JobQueueDep`."""


def jobs_router(endpoints: Endpoints | None = None) -> APIRouter:
    """A router of these endpoints, by default `Endpoints()`, with typed models in the app's OpenAPI document.

    If `Endpoints.queue` is None, the queue is that of the app's lifespan, see `get_job_queue`.
    """
    endpoints = Endpoints() if endpoints is None else endpoints
    router = APIRouter(tags=["jobs"])
    for name, endpoint in endpoints.included.items():
        responses: dict[int | str, dict[str, Any]] = {
            code: {"description": meaning, "model": endpoint.error_model(code)}
            for code, meaning in endpoint.errors.items()
        }
        if endpoint.model is None:
            responses[200] = {"description": endpoint.summary, "content": {endpoint.media_type: {}}}
        router.add_api_route(
            endpoint.path,
            _route(endpoints, name),
            name=name,
            operation_id=name,
            summary=endpoint.summary,
            response_model=endpoint.model,
            response_class=Response if endpoint.model is None else JSONResponse,
            responses=responses,
        )
        path, route = endpoint.path, _route(endpoints, name)
        router.add_api_route(path, route, methods=["HEAD"], name=name, response_model=None, include_in_schema=False)
    return router


def _route(endpoints: Endpoints, name: str) -> Callable[..., Awaitable[Response]]:
    respond = handler(endpoints, name)
    if "{job_id}" not in ENDPOINTS[name].path:
        return respond

    async def of_job(request: Request, job_id: str) -> Response:  # noqa: ARG001  # for the OpenAPI document
        return await respond(request)

    return of_job
