"""The module by which an application joins queueport. For `test_joining`."""

from adapters.celery.tests.legacy_app import on_rabbitmq, on_redis
from queueport_celery import join

__all__: list[str] = []

join(on_redis)
join(on_rabbitmq)
