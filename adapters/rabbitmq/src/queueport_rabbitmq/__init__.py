"""RabbitMQ as a backend of queueport: one RabbitMQ queue for the jobs of each queue. For `get_queue("amqp://...")`."""

from __future__ import annotations

from queueport_rabbitmq.transport import RabbitMQTransport

__all__ = ["RabbitMQTransport"]
