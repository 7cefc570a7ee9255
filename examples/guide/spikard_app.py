"""The guide on Spikard: `python -m guide.spikard_app`. It listens on 127.0.0.1:8000.

Spikard 0.17 ignores the host and port of its ServerConfig in Python.
"""

import asyncio

from spikard import App, Response

from guide.web import SHOWN, add_routes


async def jobs_health() -> Response:
    """The counts that a dashboard or an alarm needs."""
    answer = await asyncio.to_thread(SHOWN.jobs_health)
    return Response(content=answer.data, status_code=answer.code)


async def job_status(job_id: str) -> Response:
    """One job."""
    answer = await asyncio.to_thread(SHOWN.job_status, job_id)
    return Response(content=answer.data, status_code=answer.code)


app = add_routes(App())
app.get("/health/jobs")(jobs_health)
app.get("/jobs/{job_id}/status")(job_status)

if __name__ == "__main__":
    app.run()
