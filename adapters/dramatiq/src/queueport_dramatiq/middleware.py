"""The middleware by which Dramatiq workers run queueport's jobs. For `embedded` and `worker`.

A message with the option `queueport` is a job, whatever actor it names. queueport begins the job, runs the task in the
worker's thread and records the outcome; `async def` tasks run in queueport's event loop. Dramatiq's time limits do not
apply, and Dramatiq does not retry failed attempts. Dramatiq's tools show the failed attempts, except those of
`async def` tasks.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage
from dramatiq.worker import Worker

from queueport.errors import BackendUnavailable
from queueport.spi.runner import DeliveryResult, MessageAction
from queueport_dramatiq.messages import OPTION, body_of

__all__ = ["AttemptFailed", "JobMiddleware", "PutAside"]

logger: logging.Logger = logging.getLogger("queueport")


class AttemptFailed(Exception):
    """An attempt failed, and queueport has recorded the error. Dramatiq's own tools show this exception."""


class PutAside(Exception):
    """queueport puts a message aside: this exception lets Dramatiq move the message to Dramatiq's dead letters."""


OFF: dict[str, Any] = {
    # The middleware `Retries` does not retry after these errors. Another middleware may raise MiddlewareError.
    "throws": (AttemptFailed, PutAside, BackendUnavailable, MiddlewareError),
    "time_limit": math.inf,
    "max_age": math.inf,
    "notify_shutdown": False,
    "store_results": False,
}
"""Message options for jobs. With them, Dramatiq's middleware does not retry failed attempts, and its limits of time and
age, its notices of a shutdown and its results do not apply: https://dramatiq.io/reference.html#middleware"""
UNANSWERED = "queueport_unanswered"
"""The option that marks a message for which the store did not answer. It is set in the worker's memory only."""


class JobMiddleware(Middleware):
    """Passes the messages of jobs to `deliver`. `install` adds this middleware to the broker of one worker."""

    def __init__(self, deliver: Callable[[bytes], DeliveryResult]) -> None:
        self._deliver = deliver
        self._thread = threading.local()

    def install(self, broker: dramatiq.Broker) -> None:
        """Add this middleware before all others, so that Dramatiq calls the `after_` methods of this middleware last.

        Also replace the broker's actors by `_Actors`.
        """
        first = type(broker.middleware[0]) if broker.middleware else None
        broker.actors = _Actors(self, broker.actors)
        broker.add_middleware(self, before=first)

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Note the job that this thread is about to run.

        A message that has no job and no known actor goes to Dramatiq's dead letters.
        """
        if OPTION in message.options:
            message.options.update(OFF)
            self._thread.message = message
        elif message.actor_name not in broker.actors:
            message.fail()
            raise SkipMessage(f"no actor {message.actor_name!r} is declared here: import its module in this worker")

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Let Dramatiq acknowledge the message of a job, even if the attempt failed.

        There are two exceptions: Dramatiq moves a message that is put aside to Dramatiq's dead letters, and
        `before_ack` prevents the acknowledgement if the store did not answer. If another middleware raised
        MiddlewareError before the job began, the message is acknowledged, the job stays queued, and a dispatcher
        publishes the job again.
        """
        if OPTION in message.options:
            self._thread.message = None
            message.failed = isinstance(exception, PutAside)
            message.options[UNANSWERED] = isinstance(exception, BackendUnavailable)
            if isinstance(exception, MiddlewareError):
                logger.warning("a middleware refused a message of job %s: %s", message.message_id, exception)

    def before_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """If the store did not answer for the message, raise an error, so that Dramatiq does not acknowledge it."""
        if message.options.get(UNANSWERED):
            raise MiddlewareError("the job store did not answer: the message will be delivered again")

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Forget the job of a message that another middleware skipped. A dispatcher publishes the job again."""
        self._thread.message = None

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        """Return the messages that a consumer of Redis has fetched in one call, but that the worker has not taken.

        Dramatiq returns only those that the worker has taken. It would keep the others until its broker object has sent
        no heartbeat for a minute.
        """
        for thread in worker.consumers.values():
            consumer: Any = thread.consumer
            try:
                while cached := getattr(consumer, "message_cache", None):
                    consumer.requeue([dramatiq.MessageProxy(dramatiq.Message.decode(cached.pop(0)))])
            except Exception as error:  # noqa: BLE001  # Redis does not answer, or a message cannot be decoded
                logger.warning("fetched messages of %s may arrive a minute or more later: %s", thread.queue_name, error)

    @property
    def has_job(self) -> bool:
        return getattr(self._thread, "message", None) is not None

    def run(self) -> None:
        """Run the job that this thread has noted. Raises AttemptFailed, PutAside, or BackendUnavailable.

        BackendUnavailable means that the worker was stopped before the job store answered.
        """
        message, self._thread.message = self._thread.message, None
        delivered = self._deliver(body_of(message))
        if delivered.action is MessageAction.PUT_ASIDE:
            raise PutAside(
                f"message {message.message_id} was put aside: it cannot be read, or its job cannot be found or begun: "
                "read the worker's log"
            )
        if delivered.error is not None:
            raise AttemptFailed(f"{delivered.error.type}: {delivered.error.message}")


class _Actors(dict[str, Any]):
    """The actors of a broker, by name.

    A look-up returns a `_JobActor` if the calling thread has noted a job, or if no actor has the name.
    """

    def __init__(self, jobs: JobMiddleware, declared: dict[str, Any]) -> None:
        super().__init__(declared)
        self._jobs = jobs

    def __getitem__(self, name: str) -> Any:
        declared = self.get(name)
        if declared is not None and not self._jobs.has_job:
            return declared
        return _JobActor(name, self._jobs, declared)


class _JobActor:
    """The actor that Dramatiq calls to run a job. `declared` is the application's own actor with this name, if any."""

    def __init__(self, name: str, jobs: JobMiddleware, declared: dramatiq.Actor[..., Any] | None) -> None:
        self.actor_name = name
        self.queue_name = "" if declared is None else declared.queue_name
        self.priority = 0 if declared is None else declared.priority
        self.options: dict[str, Any] = {} if declared is None else declared.options
        self._jobs = jobs

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:  # an argument of the job may be named `self`
        self._jobs.run()
