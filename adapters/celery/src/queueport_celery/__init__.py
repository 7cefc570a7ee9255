"""Celery as a backend of queueport: Celery's own workers run the jobs.

`get_queue` opens the driver. Existing Celery applications call `join`.
"""

from queueport_celery.driver import CeleryDriver
from queueport_celery.joining import join

__all__ = ["CeleryDriver", "join"]
