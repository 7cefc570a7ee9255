"""`get_queue`: opens the queue of a URL with the installed adapters. For applications and the command line."""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from queueport.capability import Capability
from queueport.context import default_queue
from queueport.errors import ConfigurationError, Unsupported, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from queueport.aio import AsyncJobQueue
    from queueport.queue import JobQueue

__all__ = ["URL_VARIABLE", "backends", "get_queue", "named", "stores"]

URL_VARIABLE, STORE_VARIABLE = "QUEUEPORT_URL", "QUEUEPORT_STORE"

INSTALLED_BY = {
    "amqp": "queueport-rabbitmq",
    "amqps": "queueport-rabbitmq",
    "celery": "queueport-celery",
    "dramatiq": "queueport-dramatiq",
    "dramatiq+amqp": "'queueport-dramatiq[rabbitmq]'",
    "dramatiq+amqps": "'queueport-dramatiq[rabbitmq]'",
    "nats": "queueport-nats",
    "rq": "queueport-rq",
    "sqs": "queueport-sqs",
    "tls": "queueport-nats",
}
"""The package to install for a backend, by its URL scheme or by the part of the scheme before `+`."""

STORES_INSTALLED_BY = {
    "dynamodb": "queueport-sqs",
    "redis": "'queueport[redis]'",
    "rediss": "'queueport[redis]'",
    "unix": "'queueport[redis]'",
}
"""The package to install for a job store, by its URL scheme."""


def get_queue(
    url: str | None = None,
    *,
    store: str | None = None,
    namespace: str | None = None,
    require: Capability | Iterable[Capability] = (),
    **settings: Any,
) -> JobQueue:
    """Open the queue at a URL. Without arguments, return the process's default queue. Connects to no server.

        queue = get_queue("sqlite:///jobs.db")
        queue = get_queue("amqp://localhost", store="redis://localhost:6379/0", require={Capability.PRIORITY})

    The caller owns a queue that it opened with a URL, a setting or `require`, and must close it. The default queue is
    shared: `close` and the end of a `with` block do nothing. Inside a task, the default queue is the queue of the
    task's worker. Otherwise it is the queue that `JobQueue.as_default` has chosen, or the queue of QUEUEPORT_URL, which
    queueport closes at exit.

    `store` is the URL of the job store, `namespace` keeps apart apps that share a server, and `settings` are the other
    settings of docs/settings.md, such as `lease=30` (seconds). A keyword takes precedence over the URL, and the URL
    over the environment (`QUEUEPORT_LEASE`). `require` is a capability that the backend must have, or several.

    Raises ConfigurationError for a wrong or missing URL, a wrong setting, a missing or unsuitable store, an unknown
    capability or a missing package, and Unsupported if a required capability is missing.
    """
    given = {"store": store, "namespace": namespace, **settings}
    if url is None and not require and all(value is None for value in given.values()):
        return cast("JobQueue", default_queue.get())
    given_url: object = url
    if not isinstance(given_url, str | None):
        raise ConfigurationError(
            f"get_queue takes a URL as text, such as 'sqlite:///jobs.db', not {type(given_url).__name__}"
        )
    required = _required(require)
    queue = _open(url, given)
    lacking = sorted(required - queue.capabilities)
    if lacking:
        known = queue.driver.url_options
        queue.close()
        options = [known[each] for each in lacking if each in known]
        add = f"add {' and '.join(options)} to the URL, " if options else ""
        names = ", ".join(capability.name for capability in lacking)
        raise Unsupported(f"{queue.backend} lacks {names}: {add}choose a backend that has it, or do not require it")
    return queue


def _required(require: object) -> set[Capability]:
    if isinstance(require, str):  # a capability is a text, too
        return {_capability(require)}
    if not isinstance(require, Iterable):
        raise ConfigurationError(f"require={require!r:.80} is not a set of capabilities: pass {{Capability.PRIORITY}}")
    return {_capability(name) for name in require}


def _capability(name: str) -> Capability:
    try:
        return Capability(name)
    except ValueError:
        raise ConfigurationError(
            f"{name!r} is not a capability{nearest(str(name), [known.value for known in Capability])}"
        ) from None


def _open(url: str | None, given: Mapping[str, Any]) -> JobQueue:
    """Open the queue at a URL; with None, at the URL in the environment variable QUEUEPORT_URL."""
    import queueport.job.arguments  # noqa: F401  # now, because a later import may lack a free file descriptor
    from queueport.queue import JobQueue
    from queueport.spi.driver import Driver
    from queueport.spi.settings import read  # imported here, because pydantic is slow to import
    from queueport.spi.store import JobStore
    from queueport.spi.url import BackendURL

    if url is None:
        url = os.environ.get(URL_VARIABLE, "")
        if not url.strip():
            raise ConfigurationError(
                f"no queue URL is set: run `export {URL_VARIABLE}=sqlite:///jobs.db`, or call get_queue with a URL"
            )
        with named(URL_VARIABLE):
            BackendURL.parse(url)
    parsed, settings = read(url, given)
    backend = load(parsed.scheme, Driver)
    names_store = given.get("store") is not None or "store" in BackendURL.parse(url).options
    if not backend.carries:
        if names_store:
            raise ConfigurationError(
                f"{backend.name} keeps its own records: name no job store, neither in the URL nor by store= or --store"
            )
        if given.get("signing_key") is not None or "signing_key" in BackendURL.parse(url).options:
            raise ConfigurationError(f"{backend.name} sends no messages, so it can sign none: leave out signing_key")
        # ignore QUEUEPORT_STORE and QUEUEPORT_SIGNING_KEY, which are for other backends
        settings = settings.model_copy(update={"store": None, "signing_key": None})
    store_url = settings.store or backend.default_store(parsed)
    if store_url is None:
        raise ConfigurationError(
            f"{parsed.scheme}:// keeps no records: name a job store, for example "
            f"get_queue({str(parsed)!r}, store='redis://localhost:6379/0'), or set {STORE_VARIABLE}"
        )
    with named(STORE_VARIABLE if settings.store and not names_store else None):
        located = BackendURL.parse(store_url)
        opener = load(located.scheme, JobStore)
        store: JobStore = opener.open(located, namespace=settings.namespace, call_timeout=settings.call_timeout)
    if Capability.PERSISTENT in backend.capabilities and not store.shared:
        raise ConfigurationError(
            f"{parsed.scheme}:// needs a job store that other processes can use, which {located.scheme}:// is not: "
            "name another, such as sqlite:///jobs.db"
        )
    return JobQueue(parsed, settings, backend.open(parsed, settings, store), store)


@contextmanager
def named(variable: str | None) -> Iterator[None]:
    """A context manager that puts `variable`, the name of an environment variable, in front of the message of a
    ConfigurationError.

    If `variable` is None, errors are not changed.
    """
    try:
        yield
    except ConfigurationError as error:
        if variable is None:
            raise
        raise ConfigurationError(f"{variable}: {error}") from error.__cause__


def backends() -> dict[str, EntryPoint]:
    """The entry points of the installed backends, by URL scheme."""
    return _installed("queueport.backends")


def stores() -> dict[str, EntryPoint]:
    """The entry points of the installed job stores, by URL scheme."""
    return _installed("queueport.stores")


@functools.cache
def _installed(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=group)}


def load(scheme: str, base: type) -> Any:
    """Load the driver or store class that is installed for a URL scheme. `base` is Driver or JobStore.

    Raises ConfigurationError if no class is installed for this scheme, or if the installed class cannot be imported or
    is not a subclass of `base`.
    """
    from queueport.spi.store import JobStore

    is_store = base is JobStore
    installed, packages = (stores(), STORES_INSTALLED_BY) if is_store else (backends(), INSTALLED_BY)
    what, family = "job store" if is_store else "backend", scheme.partition("+")[0]
    package = packages.get(scheme) or packages.get(family)
    entry = installed.get(scheme)
    if entry is None:
        if not is_store and scheme in (stores().keys() | STORES_INSTALLED_BY.keys()):
            raise ConfigurationError(f"{scheme}:// is a job store, not a backend: pass it to a backend as store=")
        related = [f"{name}://" for name in sorted(installed) if name.partition("+")[0] == family]
        if related:
            hint = f": use {' or '.join(related)}"
        else:
            hint = f": run `pip install {package}`" if package else nearest(scheme, installed)
        raise ConfigurationError(f"no {what} for {scheme}:// is installed{hint}")
    try:
        loaded = entry.load()
    except ImportError as error:
        hint = f"run `pip install {package}`" if package else f"install the package that provides {entry.module}"
        message = f"a package that the {what} for {scheme}:// needs cannot be imported ({error}): {hint}"
        raise ConfigurationError(message) from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ConfigurationError(f"the entry point {entry.value!r} for {scheme}:// is not a {what}: update its package")
    return loaded


@functools.cache
def _from_environment() -> JobQueue:
    """The queue of QUEUEPORT_URL, as `JobQueue.shared`.

    Each process, also after a fork, opens a queue of its own on first use and closes that queue at exit.
    """
    queue = _open(None, {})
    atexit.register(queue.close)
    return queue.shared


os.register_at_fork(after_in_child=_from_environment.cache_clear)


def _as_async(queue: JobQueue) -> AsyncJobQueue:
    from queueport.aio import AsyncJobQueue  # imported here, because it imports asyncio, which is slow

    return AsyncJobQueue(queue)


default_queue.open, default_queue.as_async = _from_environment, _as_async
