"""Dramatiq as a backend of queueport: over Redis, over RabbitMQ, or the broker of an application that exists."""

from __future__ import annotations

from queueport_dramatiq.driver import DramatiqApp, DramatiqDriver, DramatiqOnRabbitMQ, DramatiqOnRedis

__all__ = ["DramatiqApp", "DramatiqDriver", "DramatiqOnRabbitMQ", "DramatiqOnRedis"]
