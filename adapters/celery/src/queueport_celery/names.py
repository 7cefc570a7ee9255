"""The names that queueport's queues have on the broker. For the driver, its workers, and users of Celery's tools."""

from __future__ import annotations

from dataclasses import dataclass

from kombu import Exchange, Queue

from queueport.job import HIGHEST_PRIORITY

__all__ = ["Names"]

PRIORITIES = 2 * HIGHEST_PRIORITY
"""The highest priority in RabbitMQ: queueport's -10 to 10 are 0 to 20. https://www.rabbitmq.com/docs/priority"""


@dataclass(frozen=True, slots=True)
class Names:
    """Makes the names of a namespace's queues. `prioritises` is True if the broker delivers higher priorities first."""

    namespace: str
    prioritises: bool

    def native(self, queue: str) -> str:
        """The broker's name of a queue, as in `celery worker -Q`."""
        return f"{self.namespace}.{queue}"

    def aside(self, queue: str) -> str:
        """The broker's name of the queue that keeps the messages of `queue` that were put aside."""
        return f"{self.namespace}.{queue}:aside"

    def queue(self, native: str) -> str | None:
        """The queue that has this name on the broker.

        None for a name outside the namespace, and for a name with a colon, such as that of an aside queue.
        """
        prefix = f"{self.namespace}."
        return native.removeprefix(prefix) if native.startswith(prefix) and ":" not in native else None

    def declaration(self, native: str) -> Queue:
        """The declaration of a queue for Celery: durable, with its name as the only routing key.

        If the broker prioritises, the queue has priorities, unless it is an aside queue or outside the namespace.
        """
        prioritised = self.prioritises and self.queue(native) is not None
        return Queue(native, Exchange(""), routing_key=native, max_priority=PRIORITIES if prioritised else None)
