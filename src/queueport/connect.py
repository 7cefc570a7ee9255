"""`get_queue`: from a URL to a queue, by the adapters that are installed; and the process's default queue."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

from queueport.capability import Capability
from queueport.driver import Driver
from queueport.errors import ConfigurationError, Unsupported
from queueport.store import JobStore
from queueport.transport import Transport
from queueport.url import BackendURL, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from queueport.queue import JobQueue
    from queueport.settings import Settings

__all__ = ["backends", "default_queue", "get_queue", "open_store", "stores"]

INSTALLED_BY = {
    "amqp": "queueport-rabbitmq",
    "amqps": "queueport-rabbitmq",
    "celery": "queueport-celery",
    "dramatiq": "queueport-dramatiq",
    "rq": "queueport-rq",
    "sqs": "queueport-sqs",
}
"""Which package brings a backend's scheme (or what stands before its `+`), for the message when it is missing."""

STORES_INSTALLED_BY = {
    "dynamodb": "queueport-sqs",
    "redis": "'queueport[redis]'",
    "rediss": "'queueport[redis]'",
    "unix": "'queueport[redis]'",
}
"""The same for the schemes of job stores."""


def get_queue(
    url: str | None = None,
    *,
    store: str | None = None,
    namespace: str | None = None,
    require: Iterable[Capability] = (),
    **settings: Any,
) -> JobQueue:
    """A queue at that URL, yours to close; without any argument the process's default one.

        queue = get_queue("sqlite:///jobs.db")

    `settings` are those of DESIGN's every backend (`lease=30`, seconds, and so on): a keyword wins over the URL, the
    URL over the environment (`QUEUEPORT_LEASE`). `require` names capabilities that must be there. No I/O is done.
    Raises ConfigurationError, and Unsupported where a required capability is lacking.
    """
    given = {"store": store, "namespace": namespace, **settings}
    if url is None and not require and all(value is None for value in given.values()):
        return _Default.get()
    queue = _open(_environment_url() if url is None else url, given)
    lacking = sorted(Capability(capability).name for capability in set(require) - queue.capabilities)
    if lacking:
        raise Unsupported(
            f"{queue.backend} lacks {', '.join(lacking)}: choose a backend that has it, or do not require it"
        )
    return queue


def _open(url: str, given: Mapping[str, Any]) -> JobQueue:
    from queueport.queue import JobQueue
    from queueport.settings import read  # which takes pydantic: not before it is needed

    parsed, settings = read(url, given)
    backend = _load(parsed.scheme, (Driver, Transport))
    named = given.get("store") is not None or "store" in BackendURL.parse(url).options
    if issubclass(backend, Driver) and not backend.carries:
        if named:
            raise ConfigurationError(f"{backend.name} keeps its own records: leave out store=")
        settings = settings.model_copy(update={"store": None})
    store_url = settings.store or backend.default_store(parsed)
    if store_url is None:
        raise ConfigurationError(
            f"{parsed.scheme}:// keeps no records: name a job store, for example "
            f"get_queue({str(parsed)!r}, store='redis://localhost:6379/0'), or set QUEUEPORT_STORE"
        )
    store = open_store(store_url, settings)
    if Capability.PERSISTENT in backend.capabilities and not store.shared:
        raise ConfigurationError(
            f"{parsed.scheme}:// is shared by processes and a memory store is not: name another, such as sqlite:///jobs.db"
        )
    if issubclass(backend, Transport):
        from queueport.transport_driver import TransportDriver

        return JobQueue(parsed, settings, TransportDriver(backend.open(parsed, settings)), store)
    return JobQueue(parsed, settings, backend.open(parsed, settings, store), store)


def open_store(url: str, settings: Settings) -> JobStore:
    """The job store at that URL. Raises ConfigurationError."""
    parsed = BackendURL.parse(url)
    kind = _load(parsed.scheme, (JobStore,))
    opened: JobStore = kind.open(parsed, namespace=settings.namespace, call_timeout=settings.call_timeout)
    return opened


def backends() -> dict[str, EntryPoint]:
    """The backends installed, by URL scheme."""
    return _installed("queueport.backends")


def stores() -> dict[str, EntryPoint]:
    """The job stores installed, by URL scheme."""
    return _installed("queueport.stores")


@functools.cache
def _installed(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=group)}


def _load(scheme: str, kinds: tuple[type, ...]) -> Any:
    """The class that an entry point names for that scheme, one of these kinds."""
    is_store = kinds == (JobStore,)
    installed, packages = (stores(), STORES_INSTALLED_BY) if is_store else (backends(), INSTALLED_BY)
    what, family = "job store" if is_store else "backend", scheme.partition("+")[0]
    entry = installed.get(scheme)
    if entry is None:
        if not is_store and scheme in (stores().keys() | STORES_INSTALLED_BY.keys()):
            raise ConfigurationError(f"{scheme}:// is a job store and carries no jobs: name it as store= of a backend")
        kin = [f"{name}://" for name in sorted(installed) if name.partition("+")[0] == family]
        if kin:
            hint = f": there are {', '.join(kin)}"
        else:
            hint = f": run `pip install {packages[family]}`" if family in packages else nearest(scheme, installed)
        raise ConfigurationError(f"no {what} for {scheme}:// is installed{hint}")
    try:
        loaded = entry.load()
    except ImportError as error:
        package = packages.get(family, entry.value)
        raise ConfigurationError(
            f"the {what} for {scheme}:// lacks a package ({error}): run `pip install {package}`"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, kinds)):
        raise ConfigurationError(f"the entry point {entry.value!r} for {scheme}:// is no {what}")
    return loaded


def _environment_url() -> str:
    url = os.environ.get("QUEUEPORT_URL")
    if not url:
        raise ConfigurationError("no queue is named: write `export QUEUEPORT_URL=sqlite:///jobs.db`, or get_queue(URL)")
    return url


class _Default:
    """The process's default queue: made on first use, made anew after a fork, closed at exit."""

    lock = threading.RLock()
    made: JobQueue | None = None
    maker: int | None = None
    named: ClassVar[list[JobQueue]] = []
    """Those named by `as_default`, the latest last."""

    @classmethod
    def get(cls) -> JobQueue:
        running = worker_queue.get(None)
        if running is not None:
            return running
        with cls.lock:
            if cls.named:
                return cls.named[-1]
            if cls.made is None or cls.maker != os.getpid():
                cls.made, cls.maker = _open(_environment_url(), {}), os.getpid()
                atexit.register(cls.made.close)
            return cls.made


worker_queue: ContextVar[JobQueue | None] = ContextVar("queueport_worker_queue")
"""Inside a task: the queue of the worker that runs it."""


@contextmanager
def default_queue(queue: JobQueue) -> Iterator[None]:
    """Make `queue` the default for a while, in every thread."""
    with _Default.lock:
        _Default.named.append(queue)
    try:
        yield
    finally:
        with _Default.lock:
            _Default.named.remove(queue)


os.register_at_fork(after_in_child=lambda: setattr(_Default, "lock", threading.RLock()))
