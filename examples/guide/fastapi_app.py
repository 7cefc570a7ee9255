"""The guide on FastAPI: `uvicorn guide.fastapi_app:app`."""

from fastapi import FastAPI

from guide.web import SHOWN, add_routes
from queueport.contrib.fastapi import job_queue_lifespan, jobs_router

app = add_routes(FastAPI(lifespan=job_queue_lifespan()))
app.include_router(jobs_router(SHOWN))
