"""Dramatiq's RabbitMQ broker without delays and without idle connections. For the driver and its workers."""

from __future__ import annotations

from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.common import q_name

__all__ = ["QueueportRabbitmqBroker"]


class QueueportRabbitmqBroker(RabbitmqBroker):
    """Nothing is ever delayed in Dramatiq, so that no consumer looks for it."""

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Without a consumer for the queue of delayed messages."""
        name = q_name(queue_name)
        if name not in self.queues:
            self.emit_before("declare_queue", name)
            self.queues.add(name)
            self.queues_pending.add(name)
            self.emit_after("declare_queue", name)
        if ensure:
            self._ensure_queue(name)  # type: ignore[no-untyped-call]  # Dramatiq's is untyped

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000):  # type: ignore[no-untyped-def]  # Dramatiq's is untyped
        """Its consumer has a connection of its own; the one that made the queue would only go stale."""
        self.declare_queue(queue_name, ensure=True)
        del self.connection
        return super().consume(queue_name, prefetch, timeout)
