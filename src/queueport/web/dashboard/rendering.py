"""Renders the templates. For the pages and actions.

Every expression in a template passes through `visible` and is then escaped for HTML. So a text from a job can neither
add markup nor hide or reorder other text, whichever template shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Router

from queueport.errors import encodable
from queueport.spi.url import hidden
from queueport.status import JobState
from queueport.web.dashboard.charts import chart, sparkline
from queueport.web.dashboard.text import ago, due, duration, json_text, moment, visible

__all__ = ["FOLDER", "Rendering"]

FOLDER = Path(__file__).parent


def _shown(value: Any) -> Any:
    """What a template shows of a value: markup as it is; other values as text, with line ends and tabs."""
    return value if isinstance(value, Markup) else visible(str(value), kept="\n\t")


def _quoted(text: str) -> str:
    """The text for the query of an address. Unlike the filter of Jinja, it also takes lone surrogates."""
    return quote(encodable(text), safe="")


class Rendering:
    """Renders the templates with what every page needs. `router` knows the addresses of the pages."""

    def __init__(self, router: Router, **shared: Any) -> None:
        self._router = router
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            ago=ago, due=due, duration=duration, hidden=hidden, json=json_text, moment=moment
        )
        self._templates.filters["urlencode"] = _quoted
        self._templates.globals.update(shared, chart=chart, sparkline=sparkline, states=list(JobState))

    def url(self, request: Request, name: str, **parts: str) -> str:
        """The address of a page, also if the app is mounted under a path."""
        root: str = request.scope.get("root_path", "")
        return root.rstrip("/") + self._router.url_path_for(name, **parts)

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The response with a rendered template."""

        def url(name: str, **parts: str) -> str:
            return self.url(request, name, **parts)

        query = f"?{request.url.query}" if request.url.query else ""
        user = request.state.dashboard_user
        shared = {"url": url, "here": request.url.path + query, "user": user, "path": request.url.path}
        return HTMLResponse(self._templates.get_template(template).render(shared | values), status)
