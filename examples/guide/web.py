"""The HTTP handlers of the guide, for each framework with decorators such as `app.get(path)`."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from guide import outside
from guide.tasks import log_visit, process_upload, send_email
from queueport.web import Endpoints


@dataclass
class Upload:
    """The body of POST /upload."""

    file_id: str


@dataclass
class SignUp:
    """The body of POST /signup."""

    email: str
    name: str


async def upload(body: Upload) -> dict[str, Any]:
    """Enqueue the processing of a file. While a job of this file is alive, another request gets the same job."""
    handle = await process_upload.using(key=body.file_id).aenqueue(body.file_id)
    return {"status": "processing", "task_id": handle.id}


async def sign_up(body: SignUp) -> dict[str, Any]:
    """Save the user first, then enqueue the welcome mail, so that the mail never names a user who does not exist."""
    user = dataclasses.asdict(body)
    user_id = outside.append("users", user)
    await send_email.aenqueue(user_id, "welcome", {"name": body.name})
    await log_visit.aenqueue("/signup", body.email)
    return {"id": user_id, **user}


SHOWN = Endpoints(show={"arguments", "result", "traceback"})
"""The endpoints about jobs. Behind a login, they may show everything."""


def add_routes(app: Any) -> Any:
    """Add the routes that enqueue jobs to an app. Returns the app."""
    app.post("/upload")(upload)
    app.post("/signup")(sign_up)
    return app
