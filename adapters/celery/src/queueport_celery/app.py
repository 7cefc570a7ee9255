"""Makes the Celery app that a URL describes, imports an existing app, and makes the app of each `EmbeddedWorker`. For
the driver and its workers.

Where it is not obvious, a comment says why a setting differs from Celery's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery

from queueport.errors import ConfigurationError
from queueport.spi.url import BackendURL
from queueport.workers import modules
from queueport_celery.names import Names
from queueport_celery.task import register

__all__ = ["CONSUMER", "existing", "made", "of_worker"]

CONSUMER = "queueport_celery.consumer:JobConsumer"
TRANSPORT = "queueport_celery.redis_transport:Transport"

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
"""The names of an app's settings for its broker connections, and for its messages to and from Celery's tools.
`of_worker` copies these settings to the app of a worker."""


def made(url: BackendURL, names: Names) -> Celery:
    """Make the app that a `celery+BROKER://` URL describes."""
    broker = url.text.removeprefix("celery+")
    if broker.startswith("amqp:"):  # for "amqp", kombu may use librabbitmq, which cannot confirm a publish
        broker = f"py{broker}"
    settings = {
        "broker_url": broker,
        # exchanges, event queues and Redis keys are named by namespace: Celery's defaults are equal for all apps
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
    return _app(_MadeApp, settings, names, [names.native("default")])


def existing(url: BackendURL) -> Celery:
    """Import the app that `celery://package.module:app` names, and register queueport's task in it.

    Raises ConfigurationError if the app cannot be imported, is not a Celery app, or does not accept JSON.
    """
    app = modules.load_object(url, "app")
    if not isinstance(app, Celery):
        raise ConfigurationError(f"{url} names an object of type {type(app).__name__}, not a Celery app: name an app")
    if not {"json", "application/json"} & set(app.conf.accept_content):
        raise ConfigurationError(f"{url} does not accept JSON, which queueport needs: add 'json' to accept_content")
    register(app)
    return app


def of_worker(app: Celery, names: Names, queues: Sequence[str]) -> Celery:
    """Make an app for one `EmbeddedWorker`, with those settings of `app` that CONNECTION names.

    The worker uses the new app, so it does not change `app`. `queues` are the broker's names of the queues.
    """
    settings = {name: app.conf[name] for name in CONNECTION}
    if app.connection_for_read().transport_cls == "redis":
        settings["broker_transport"] = TRANSPORT
    kind: type[Celery] = _MadeApp if isinstance(app, _MadeApp) else Celery
    return _app(kind, settings, names, queues)


class _MadeApp(Celery):
    """An app that ignores the environment variables CELERY_BROKER_URL, CELERY_BROKER_READ_URL, CELERY_BROKER_WRITE_URL
    and CELERY_RESULT_BACKEND. Celery prefers them to the app's settings, but queueport's URL names the broker.
    """

    backend_cls = "disabled"

    def connection_for_read(self, url: Any = None, **options: Any) -> Any:
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: Any = None, **options: Any) -> Any:
        return super().connection_for_write(url or self.conf["broker_url"], **options)

    def connection(self, hostname: Any = None, *arguments: Any, **options: Any) -> Any:
        return super().connection(hostname or self.conf["broker_url"], *arguments, **options)


def _app(kind: type[Celery], settings: dict[str, Any], names: Names, queues: Sequence[str]) -> Celery:
    app = kind("queueport", set_as_current=False, changes={})
    app.conf.update(
        **settings,
        task_queues=[names.declaration(queue) for queue in queues],
        task_default_queue=queues[0],
        accept_content=["json"],  # a pickled message could run any code
        task_serializer="json",
        task_ignore_result=True,  # Celery need not store the result: the job's record contains it
        task_acks_late=True,  # by default, Celery acknowledges a message before it runs the task
        task_publish_retry=False,  # `Publisher` itself repeats a failed publish and reports the outcome
        worker_prefetch_multiplier=1,  # one message a thread; further messages stay on the broker for any worker
        worker_consumer=CONSUMER,
        worker_enable_prefetch_count_reduction=False,  # by default, a reconnect lowers the prefetch
        broker_connection_retry_on_startup=True,  # a worker waits until its broker is available
        broker_connection_max_retries=None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    register(app)
    return app
