"""Dramatiq as a backend of queueport, over Redis, RabbitMQ or an existing application's broker. For `get_queue`."""

from __future__ import annotations

from queueport_dramatiq.app import DramatiqApp
from queueport_dramatiq.driver import DramatiqDriver
from queueport_dramatiq.joining import join
from queueport_dramatiq.redis import DramatiqOnRedis

__all__ = ["DramatiqApp", "DramatiqDriver", "DramatiqOnRedis", "join"]
