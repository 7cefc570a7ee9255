"""RabbitMQ as a backend of queueport: one queue of the broker for each queue. For `get_queue("amqp://...")`."""

from __future__ import annotations

from queueport_rabbitmq.transport import RabbitMQTransport

__all__ = ["RabbitMQTransport"]
