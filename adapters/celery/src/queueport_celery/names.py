"""What belongs to one namespace on a broker, by name. For the driver, its workers, and users of Celery's tools."""

from __future__ import annotations

from dataclasses import dataclass

from kombu import Exchange, Queue

__all__ = ["PRIORITIES", "PRIORITY_ZERO", "Names"]

PRIORITIES = 20
"""x-max-priority of queues on RabbitMQ, at most 255: https://www.rabbitmq.com/docs/priority"""
PRIORITY_ZERO = 10
"""Where queueport's priority 0 lies in RabbitMQ's 0 to 20."""


@dataclass(frozen=True, slots=True)
class Names:
    """`prioritises`: the broker orders a queue by priority, the higher the sooner."""

    namespace: str
    prioritises: bool

    def work(self, queue: str) -> str:
        """The broker's queue that carries jobs; the name for `celery worker -Q`."""
        return f"{self.namespace}.{queue}"

    def aside(self, queue: str) -> str:
        """The one with what is none of queueport's."""
        return f"{self.namespace}.{queue}:aside"

    def within(self, name: str) -> str | None:
        """The queue that the broker's queue of that name carries; None where it is not of this namespace."""
        prefix = f"{self.namespace}."
        return name.removeprefix(prefix) if name.startswith(prefix) and ":" not in name else None

    def declaration(self, name: str) -> Queue:
        """That queue as Celery is to declare it: durable, and reached by its name alone."""
        prioritised = self.prioritises and self.within(name) is not None
        return Queue(name, Exchange(""), routing_key=name, max_priority=PRIORITIES if prioritised else None)
