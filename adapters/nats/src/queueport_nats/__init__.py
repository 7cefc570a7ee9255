"""NATS JetStream as a backend of queueport: one stream for the jobs of each queue. For `get_queue("nats://...")`."""

from __future__ import annotations

from queueport_nats.transport import NatsTransport

__all__ = ["NatsTransport"]
