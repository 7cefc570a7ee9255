"""Celery as a backend of queueport: its own workers run the jobs. For `get_queue`."""

from queueport_celery.driver import CeleryDriver
from queueport_celery.legacy import join

__all__ = ["CeleryDriver", "join"]
