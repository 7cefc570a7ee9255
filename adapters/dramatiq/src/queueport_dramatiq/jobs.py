"""How a Dramatiq worker runs queueport's jobs: a middleware that hands their messages to queueport. For both workers.

A message with the option `queueport` is a job's, whatever its actor. queueport begins it, runs the task's code in the
worker's thread, and records its end; Dramatiq's own limits and retries do not touch it, and its tools see it fail.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage

from queueport.executor import Delivered
from queueport.runner import Verdict
from queueport_dramatiq.messages import OPTION, body_of

__all__ = ["AttemptFailed", "Jobs", "PutAside"]


class AttemptFailed(Exception):
    """An attempt at a job failed. For Dramatiq's own tools: what follows from it queueport has decided already."""


class PutAside(Exception):
    """The message is no job of queueport's: it is kept in the dead letters."""


OFF: dict[str, Any] = {
    "throws": (AttemptFailed, PutAside),  # Retries: no retry, and no word to `on_retry_exhausted`
    "time_limit": math.inf,
    "max_age": math.inf,
    "notify_shutdown": False,
    "store_results": False,
}
"""Options that switch off what queueport does itself: https://dramatiq.io/reference.html#middleware"""
UNANSWERED = "queueport_unanswered"
"""An option of a message that is in a worker's hands; it is never sent."""


class Jobs(Middleware):
    """Runs the messages that bear a job by `deliver`. `install` it into the broker of one worker."""

    def __init__(self, deliver: Callable[[bytes], Delivered]) -> None:
        self._deliver = deliver
        self._incoming = threading.local()

    def install(self, broker: dramatiq.Broker) -> None:
        """Before all other middleware: its word on a message's end is the last one then."""
        first = type(broker.middleware[0]) if broker.middleware else None
        broker.actors = _Actors(self, broker.actors)
        broker.add_middleware(self, before=first)

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Note the job that this thread is to run; refuse what nobody here can run, as Dramatiq does."""
        if OPTION in message.options:
            message.options.update(OFF)
            self._incoming.message = message
        elif message.actor_name not in broker.actors:
            message.fail()
            raise SkipMessage(f"no actor {message.actor_name!r} is declared here")

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """A job's message has done its work, however the job ended; what is no job goes to the dead letters."""
        if OPTION in message.options:
            self._incoming.message = None
            message.failed = isinstance(exception, PutAside)
            message.options[UNANSWERED] = not (exception is None or isinstance(exception, (AttemptFailed, PutAside)))

    def before_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """What the store gave no answer to is not acknowledged. Dramatiq logs the error, and goes on."""
        if message.options.get(UNANSWERED):
            raise MiddlewareError("the job store did not answer: this message is to come again")

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Another middleware did not want it run: then it stays queued, and its message comes again."""
        self._incoming.message = None

    @property
    def waiting(self) -> bool:
        """Whether this thread is about to run a job."""
        return getattr(self._incoming, "message", None) is not None

    def run(self) -> None:
        """Run the job that this thread is to run. Raises AttemptFailed, and PutAside."""
        message, self._incoming.message = self._incoming.message, None
        delivered = self._deliver(body_of(message))
        if delivered.verdict is Verdict.PUT_ASIDE:
            raise PutAside(f"message {message.message_id} is no job that can be run here")
        if delivered.error is not None:
            raise AttemptFailed(f"{delivered.error.type}: {delivered.error.message}")


class _Actors(dict[str, Any]):
    """A broker's actors, by name. Where a job is to run there is one for every name."""

    def __init__(self, jobs: Jobs, declared: dict[str, Any]) -> None:
        super().__init__(declared)
        self._jobs = jobs

    def __getitem__(self, name: str) -> Any:
        declared = self.get(name)
        if declared is not None and not self._jobs.waiting:
            return declared
        return _JobActor(name, self._jobs, declared)


class _JobActor:
    """What a worker takes for the actor of a job's message. `declared`: the application's own of that name."""

    def __init__(self, name: str, jobs: Jobs, declared: dramatiq.Actor[..., Any] | None) -> None:
        self.actor_name = name
        self.queue_name = "" if declared is None else declared.queue_name
        self.priority = 0 if declared is None else declared.priority
        self.options: dict[str, Any] = {} if declared is None else declared.options
        self._jobs = jobs

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._jobs.run()
