"""Flask extension. Jobs run in the app's context and use its configuration.

Install it with `pip install 'queueport[flask]'`. It adds the command `flask queueport`.

    from queueport.contrib.flask import Queueport

    Queueport(app)                     # or queueport = Queueport(), and later queueport.init_app(app)

    @app.post("/signup")
    def sign_up():
        return {"job": send_welcome.enqueue(request.form["email"]).id}, 202

    $ flask --app shop queueport worker shop.tasks

In a task, `current_app` and the app's extensions work as in a request. `jobs_blueprint` adds the endpoints of
`queueport.web`:

    app.register_blueprint(jobs_blueprint(Endpoints(show={"result"})))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import click

from queueport.context import CurrentJob
from queueport.errors import NeedsExtra
from queueport.hooks import around_job
from queueport.web import Endpoints, Events

with NeedsExtra("flask", __name__):
    from flask import Blueprint, Flask, Response, request

__all__ = ["Queueport", "jobs_blueprint"]


class Queueport:
    """The Flask extension. A setting in `app.config`, such as QUEUEPORT_URL, applies if the environment lacks it.

    The setting must be in `app.config` before `init_app` is called, which copies it to the environment.

    The child processes of a worker import the module that the app is named after, as in `Flask(__name__)`. This module
    must create the app when it is imported; a function that creates the app is not enough.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register the extension with an app: copy the app's settings to environment variables that are not set, let
        jobs run in the app's context, and add the command `flask queueport`.

        A second call for the same app does nothing.
        """
        if "queueport" in app.extensions:
            return
        app.extensions["queueport"] = self
        for name, value in app.config.items():
            if name.startswith("QUEUEPORT_") and value is not None:
                os.environ.setdefault(name, str(value))  # read by `get_queue` and a worker's processes

        def app_context(_job: CurrentJob) -> Iterator[None]:
            with app.app_context():
                yield

        # The child processes of a worker import the `__module__` of each hook. For this hook, `__module__` must name
        # the module that creates the app.
        app_context.__module__ = app.import_name
        around_job(app_context)
        app.cli.add_command(_command)


@click.command("queueport", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _command(arguments: tuple[str, ...]) -> None:
    """Run workers, inspect jobs and repair failures: the command `queueport`, with this app."""
    from queueport.cli.app import app  # imported here, because only this command needs it

    app(args=list(arguments))


def jobs_blueprint(endpoints: Endpoints | None = None) -> Blueprint:
    """A blueprint of these endpoints, by default `Endpoints()`.

    Each client of `/jobs/{id}/events` occupies a thread of the server until its job has ended.
    """
    endpoints = Endpoints() if endpoints is None else endpoints
    blueprint = Blueprint("queueport", __name__)
    for name, endpoint in endpoints.included.items():
        blueprint.add_url_rule(endpoint.path.replace("{job_id}", "<job_id>"), name, _view(endpoints, name))
    return blueprint


def _view(endpoints: Endpoints, name: str) -> Callable[..., Response]:
    def view(job_id: str = "") -> Response:
        headers = request.headers
        answer = endpoints.respond(
            name,
            job_id=job_id,
            accept=headers.get("Accept", ""),
            last_event_id=headers.get("Last-Event-ID", ""),
        )
        body = iter(answer) if isinstance(answer, Events) else answer.body
        return Response(body, answer.code, dict(answer.headers), content_type=answer.media_type)

    return view
