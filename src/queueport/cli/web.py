"""`queueport web`: serves the dashboard. For operators."""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from queueport.cli import output
from queueport.connect import URL_VARIABLE, get_queue
from queueport.errors import BackendUnavailable, ConfigurationError, NeedsExtra
from queueport.workers import modules

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PASSWORD_VARIABLE = "QUEUEPORT_WEB_PASSWORD"  # noqa: S105  # the name of a variable
PORT = 8484


def web(
    *,
    urls: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            show_default=False,
            help=f"A queue's URL; repeatable, one for each backend.  \\[default: ${URL_VARIABLE}]",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="The job store's URL, for every --url; or give each URL its own store=.  "
            "\\[default: $QUEUEPORT_STORE]",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="The namespace, which separates apps on one server.  \\[default: $QUEUEPORT_NAMESPACE, or queueport]",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; any but loopback needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 for any free one.")] = PORT,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Allow to retry, replay, cancel, purge, pause …; else read-only.")
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            show_default=False,
            help=f"A file with the password that browsers must send.  \\[default: ${PASSWORD_VARIABLE}]",
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="REGEX",
            show_default=False,
            help="Hide the values whose names match.  \\[default: passwords, tokens, keys and the like]",
        ),
    ] = None,
    module_names: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            show_default=False,
            help="A module that declares tasks, to check edited arguments and to hide secret ones; repeatable.",
        ),
    ] = None,
) -> None:
    """Serve the dashboard: queues, workers and jobs in a browser.

    Without --allow-actions it changes nothing.
    """
    dashboard_app, is_loopback = _dashboard()
    password = _password(password_file)
    if password is None and not is_loopback(host):
        raise ConfigurationError(
            f"--host {host} lets other machines see the jobs: set a password with --password-file or "
            f"{PASSWORD_VARIABLE}, or leave out --host"
        )
    if module_names:
        modules.load(module_names)
    chosen = urls or [os.environ.get(URL_VARIABLE, "")]
    if not all(url.strip() for url in chosen):
        raise ConfigurationError(f"no queue URL is given: use --url sqlite:///jobs.db, or set {URL_VARIABLE}")
    with ExitStack() as stack:
        queues = [stack.enter_context(get_queue(url, store=store, namespace=namespace)) for url in chosen]
        options = {} if mask is None else {"mask": mask}
        _serve(dashboard_app(queues, allow_actions=allow_actions, password=password, **options), host, port)


def _dashboard() -> "tuple[Callable[..., ASGIApp], Callable[[str], bool]]":
    """`dashboard_app` and `is_loopback`. Raises ConfigurationError if a package of the extra `web` is missing."""
    try:
        with NeedsExtra("web", "the dashboard"):
            import uvicorn  # noqa: F401  # needed later

            from queueport.web.dashboard import dashboard_app
            from queueport.web.dashboard.access import is_loopback
    except ImportError as error:
        raise ConfigurationError(str(error)) from error
    return dashboard_app, is_loopback


def _password(path: Path | None) -> str | None:
    """The password in the file, else in the environment; None if there is none. Raises ConfigurationError."""
    if path is None:
        variable = os.environ.get(PASSWORD_VARIABLE)
        if variable is not None and not variable.strip():
            raise ConfigurationError(f"{PASSWORD_VARIABLE} is empty: set a password, or remove the variable")
        return None if variable is None else variable.strip()
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the password file {path} cannot be read: {error}") from error
    if not password:
        raise ConfigurationError(f"the password file {path} is empty: write a password into it")
    return password


def _serve(app: "ASGIApp", host: str, port: int) -> None:
    """Serve until a signal stops the process. Raises BackendUnavailable if the address cannot be used."""
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise BackendUnavailable(f"cannot listen on {host}, port {port}: {error}; choose another --port") from error
    with listening:
        output.set_up_logging("INFO")
        name = f"[{host}]" if ":" in host else host
        output.print_line(f"the dashboard is at http://{name}:{listening.getsockname()[1]}/; stop it with Ctrl-C")
        sys.stdout.flush()
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, proxy_headers=False, server_header=False
        )
        uvicorn.Server(config).run(sockets=[listening])
