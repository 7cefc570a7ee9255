"""The endpoints of `queueport.web` as URL patterns of Django.

urlpatterns = [path("", include("queueport.contrib.django.urls")), ...]              # with the default options
urlpatterns = [*jobs_urls(Endpoints(show={"result"})), ...]
"""

from __future__ import annotations

from collections.abc import Callable

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.views.decorators.http import require_safe

from queueport.web import Endpoints, Events

__all__ = ["app_name", "jobs_urls", "urlpatterns"]


def jobs_urls(endpoints: Endpoints | None = None) -> list[URLPattern]:
    """The URL patterns of these endpoints, by default `Endpoints()`.

    Under WSGI, each client of `/jobs/{id}/events` occupies a thread of the server until its job has ended; not under
    ASGI.
    """
    endpoints = Endpoints() if endpoints is None else endpoints
    return [
        path(endpoint.path.lstrip("/").replace("{job_id}", "<str:job_id>"), _view(endpoints, name), name=name)
        for name, endpoint in endpoints.included.items()
    ]


def _view(endpoints: Endpoints, name: str) -> Callable[..., HttpResponseBase]:
    @require_safe
    def view(request: HttpRequest, job_id: str = "") -> HttpResponseBase:
        headers = request.headers
        answer = endpoints.respond(
            name,
            job_id=job_id,
            accept=headers.get("Accept", ""),
            last_event_id=headers.get("Last-Event-ID", ""),
        )
        response: HttpResponseBase
        if not isinstance(answer, Events):
            response = HttpResponse(answer.body, status=answer.code, content_type=answer.media_type)
        elif request.method == "HEAD":  # a stream would occupy the connection until the job has ended
            response = HttpResponse(content_type=answer.media_type)
        else:
            texts = aiter(answer) if isinstance(request, ASGIRequest) else iter(answer)
            response = StreamingHttpResponse(texts, content_type=answer.media_type)
        for header, value in answer.headers.items():
            response.headers[header] = value
        return response

    return view


app_name: str = "queueport"
urlpatterns: list[URLPattern] = jobs_urls()
