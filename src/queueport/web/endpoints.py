"""`Endpoints`: the answers to HTTP requests about jobs, without a web framework. Start reading here.

A framework's module adds a route for each of ENDPOINTS, and sends what `Endpoints.respond` returns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from queueport.connect import get_queue
from queueport.engine.thresholds import Thresholds
from queueport.errors import (
    BackendUnavailable,
    ConfigurationError,
    JobNotFound,
    QueueClosed,
    QueueportError,
    nearest,
)
from queueport.job import JOB_ID
from queueport.queue import JobQueue
from queueport.spi.failures import FailureLog
from queueport.web.answers import ErrorAnswer, JobAnswer, JobsHealth, Liveness, Readiness, job_answer, jobs_health
from queueport.web.events import Events, event_id

__all__ = ["ENDPOINTS", "Answer", "Endpoint", "Endpoints"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("queueport")
failures: FailureLog = FailureLog(logger)

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: its path, in which `{job_id}` stands for a job's id, and what its answers mean."""

    path: str
    summary: str
    model: type[Any] | None
    """The type of the JSON of an answer with code 200; None if this answer is not JSON."""
    media_type: str = JSON
    errors: Mapping[int, str] = field(default_factory=dict)
    """The other codes, and what they mean."""

    def error_model(self, code: int) -> type[Any] | None:
        """The type of the JSON of an answer with this code of `errors`; None if such an answer has no body."""
        if code < 400:
            return None
        return Readiness if self.model is Readiness else ErrorAnswer


UNAVAILABLE = {503: "The job store or the backend does not answer."}
NO_JOB = {400: "The id is not a valid job id.", 404: "There is no job with this id."}
ENDPOINTS: Mapping[str, Endpoint] = {
    "jobs_health": Endpoint("/health/jobs", "Count jobs and workers.", JobsHealth, errors=UNAVAILABLE),
    "job_status": Endpoint("/jobs/{job_id}/status", "Show one job.", JobAnswer, errors=NO_JOB | UNAVAILABLE),
    "job_events": Endpoint(
        "/jobs/{job_id}/events",
        "Follow one job until it has ended, by server-sent events.",
        None,
        "text/event-stream",
        {204: "The client has seen the end of the job: it must not connect again."} | NO_JOB | UNAVAILABLE,
    ),
    "live": Endpoint("/livez", "Tell that the process answers. Reads nothing from the store.", Liveness),
    "ready": Endpoint(
        "/readyz",
        "Tell whether the job store answers and no limit is exceeded.",
        Readiness,
        errors={503: "The store does not answer, or a limit is exceeded. `problems` says which."},
    ),
    "metrics": Endpoint(
        "/metrics",
        "Return the metrics for Prometheus, in its text format or as OpenMetrics.",
        None,
        "text/plain",
        {501: "The Prometheus client is not installed."},
    ),
}
"""All endpoints, by name."""
SHOW = ("arguments", "result", "traceback")
"""What an application may show of a job in addition to its state."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    code: int
    data: Any
    """JSON values; bytes if `media_type` is not that of JSON."""
    media_type: str = JSON

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return self.data if isinstance(self.data, bytes) else json.dumps(self.data).encode()

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response, without the content type."""
        return {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Makes the answers of all endpoints, from one queue. Methods block while they read from the store.

        Endpoints(show={"result"}).job_status(job_id).data

    A method never raises a QueueportError. If the store or the backend does not answer, the code is 503, and the log
    has the cause. The constructor raises ConfigurationError for an unknown name and a wrong number.
    """

    queue: JobQueue | None = None
    """None: `get_queue()`, at each request. A framework's module may find another queue, such as that of the app."""
    show: Collection[str] = ()
    """What everybody who can send requests may see of a job: "arguments", "result" and "traceback". Default: none."""
    include: Collection[str] = tuple(ENDPOINTS)
    """The names of the endpoints that a framework's module adds, see ENDPOINTS. Default: all."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """The limits above which `ready` answers with code 503. Default: none."""
    keep_alive: float = 15.0
    """Seconds after which `job_events` sends a comment if nothing has changed."""
    max_duration: float = 3600.0
    """Seconds after which `job_events` ends the stream of a job that has not ended. Browsers then connect again."""

    def __post_init__(self) -> None:
        for option, known in (("show", SHOW), ("include", tuple(ENDPOINTS))):
            names = getattr(self, option)
            for name in [names] if isinstance(names, str) else names:
                if isinstance(names, str) or name not in known:
                    raise ConfigurationError(
                        f"{option}={names!r:.80} must be a set of names{nearest(str(name), known)}"
                    )
        for option in ("keep_alive", "max_duration"):
            value: object = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigurationError(f"{option}={value!r:.80} is not a number of seconds greater than 0")

    @property
    def included(self) -> Mapping[str, Endpoint]:
        """The endpoints in `include`, by name."""
        return {name: endpoint for name, endpoint in ENDPOINTS.items() if name in self.include}

    def respond(self, name: str, *, job_id: str = "", accept: str = "", last_event_id: str = "") -> Answer | Events:
        """The answer of the endpoint with this name. For modules of frameworks.

        `accept` and `last_event_id` are the values of the headers `Accept` and `Last-Event-ID`.
        """
        match name:
            case "job_status":
                return self.job_status(job_id)
            case "job_events":
                return self.job_events(job_id, last_event_id)
            case "metrics":
                return self.metrics(accept)
            case "jobs_health":
                return self.jobs_health()
            case "ready":
                return self.ready()
            case _:
                return self.live()

    def jobs_health(self) -> Answer:
        """The number of jobs by state, the workers, and the size and latency of each queue: a `JobsHealth`."""
        return self._answer(lambda queue: Answer(200, jobs_health(queue.stats())))

    def job_status(self, job_id: str) -> Answer:
        """One job: a `JobAnswer`. 404 if there is no such job, and 400 if the id is not valid."""
        return self._about(job_id, lambda queue: Answer(200, job_answer(queue.status(job_id), self.show)))

    def job_events(self, job_id: str, last_event_id: str = "") -> Answer | Events:
        """The changes of one job until it has ended. An `Answer` with the codes of `job_status` if it cannot be read.

        204 if `last_event_id` is that of the job's end: browsers connect again after the end of a stream, until they
        get this code.
        """

        def events(queue: JobQueue) -> Answer | Events:
            status = queue.status(job_id)
            if status.finished and last_event_id == event_id(status):
                return Answer(204, b"")
            return Events(queue, status, self.show, self.keep_alive, self.max_duration)

        return self._about(job_id, events)

    def live(self) -> Answer:
        """Always 200: a `Liveness`."""
        return Answer(200, Liveness(alive=True))

    def ready(self) -> Answer:
        """A `Readiness`. 200 if the store answers and no threshold is exceeded, else 503."""
        answer = self._answer(lambda queue: Answer(200, self.thresholds.problems(queue.stats())))
        problems = answer.data if answer.code == 200 else [answer.data["error"]]
        return Answer(503 if problems else 200, Readiness(ready=not problems, problems=problems))

    def metrics(self, accept: str = "") -> Answer:
        """The metrics, as OpenMetrics if the header `Accept` names it, else in the text format of Prometheus.

        If the store or the backend does not answer, the code is 200, and the only metric is `queueport_up 0`.
        501 if the package prometheus-client is not installed.
        """
        try:
            from queueport.web.metrics import exposition  # imported here, because the Prometheus client is optional
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            return _error(501, "the Prometheus client is not installed: run `pip install 'queueport[metrics]'`")
        return self._answer(lambda queue: Answer(200, *exposition(queue, accept)))

    def _about(self, job_id: str, make: Callable[[JobQueue], T]) -> T | Answer:
        if not JOB_ID.fullmatch(job_id):
            return _error(400, f"{job_id!r:.80} is not a job id: use 1 to 64 letters, digits, _ or -")
        return self._answer(make)

    def _answer(self, make: Callable[[JobQueue], T]) -> T | Answer:
        try:
            return make(get_queue() if self.queue is None else self.queue)
        except JobNotFound as error:
            return _error(404, str(error))
        except (BackendUnavailable, QueueClosed) as error:
            failures.warning("a request about jobs failed: %s", error)
            return _error(503, "the job store or the backend does not answer; the server's log has the cause")
        except QueueportError as error:  # such as a damaged record, or a wrong QUEUEPORT_URL
            failures.error(error, "a request about jobs failed")
            return _error(500, "the request failed; the server's log has the cause")


def _error(code: int, sentence: str) -> Answer:
    return Answer(code, ErrorAnswer(error=sentence))
