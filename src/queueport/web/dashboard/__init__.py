"""The dashboard: pages for operators over one or more backends, as an ASGI app. `pip install 'queueport[web]'`.

    from queueport.web.dashboard import dashboard_app

    app = Starlette(routes=[Mount("/queueport", dashboard_app(queue, authenticate=staff_name))])

`queueport web` serves the same app. docs/dashboard.md describes the pages and the access.
"""

from queueport.errors import NeedsExtra

with NeedsExtra("web", __name__):
    from queueport.web.dashboard.app import dashboard_app

__all__ = ["dashboard_app"]
