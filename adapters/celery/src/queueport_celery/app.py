"""The Celery apps of a backend: the one that a URL describes, or an existing one, and those that workers are made of.

For the driver and its workers. Each setting says why it is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery

from queueport import modules
from queueport.errors import ConfigurationError
from queueport.url import BackendURL
from queueport_celery.entry import register
from queueport_celery.names import Names

__all__ = ["ACCEPT", "CONSUMER", "existing", "made", "of_worker"]

ACCEPT = ["json"]
CONSUMER = "queueport_celery.consumer:JobConsumer"
POOL = "queueport_celery.threads:ThreadPool"

CONNECTION = (
    "broker_url",
    "broker_read_url",
    "broker_write_url",
    "broker_use_ssl",
    "broker_login_method",
    "broker_heartbeat",
    "broker_heartbeat_checkrate",
    "broker_failover_strategy",
    "broker_connection_timeout",
    "broker_transport_options",
    "control_exchange",
    "event_exchange",
    "event_queue_prefix",
)
"""How an existing app reaches its broker and its tools: what a worker of ours for it takes over."""


def made(url: BackendURL, names: Names) -> Celery:
    """The app that a `celery+BROKER://` URL describes."""
    broker = url.text.removeprefix("celery+")
    if broker.startswith("amqp:"):  # plain "amqp" may be librabbitmq, which confirms nothing
        broker = f"py{broker}"
    settings = {
        # all three: the first of them would give way to an environment variable of Celery's
        **dict.fromkeys(("broker_url", "broker_read_url", "broker_write_url"), broker),
        # what Celery keeps in one place for a whole broker is kept for each namespace
        "control_exchange": f"{names.namespace}.control",
        "event_exchange": f"{names.namespace}.events",
        "event_queue_prefix": f"{names.namespace}.events",
        "broker_transport_options": {
            name: f"{names.namespace}.{name.removesuffix('_key')}"
            for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key")
        }
        if broker.startswith("redis")
        else {},
    }
    return _app(settings, names, [names.work("default")])


def existing(url: BackendURL) -> Celery:
    """The app that `celery://package.module:app` names. Raises ConfigurationError."""
    app = modules.named(url, "app")
    if not isinstance(app, Celery):
        raise ConfigurationError(f"{url} is no Celery app but of type {type(app).__name__}: name the app")
    if not {"json", "application/json"} & set(app.conf.accept_content):
        raise ConfigurationError(f"{url}: queueport sends JSON: add 'json' to the app's accept_content")
    register(app)
    return app


def of_worker(app: Celery, names: Names, queues: Sequence[str]) -> Celery:
    """An app like that one for one worker of ours, so that nothing of the worker's touches the other."""
    return _app({name: app.conf[name] for name in CONNECTION}, names, queues)


def _app(settings: dict[str, Any], names: Names, queues: Sequence[str]) -> Celery:
    app = Celery("queueport", set_as_current=False, changes={})
    app.conf.update(
        **settings,
        task_queues=[names.declaration(queue) for queue in queues],
        task_default_queue=queues[0],
        accept_content=ACCEPT,  # no pickle
        task_serializer="json",
        task_ignore_result=True,  # the record has it
        task_acks_late=True,  # never before the job has begun
        task_publish_retry=False,  # the core knows what became of a message
        worker_prefetch_multiplier=1,  # a message waits on the broker, where any worker can take it
        worker_consumer=CONSUMER,
        worker_enable_prefetch_count_reduction=False,  # it would stay low while long jobs run
        broker_connection_retry_on_startup=True,  # a worker waits for its broker
        broker_connection_max_retries=None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    register(app)
    return app
