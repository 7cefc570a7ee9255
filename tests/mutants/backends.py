"""The broken backends: `broken-sqlite:///jobs.db?mutant=NAME` is SQLite with that mutant's verb. For `get_queue`.

They are installed by the entry points in `installed/`, in worker processes too. The mutant `none` breaks nothing.
"""

from __future__ import annotations

import importlib
from typing import Self

from queueport.backends.memory import MemoryDriver
from queueport.backends.sqlite import SqliteDriver
from queueport.settings import Settings
from queueport.store import JobStore
from queueport.stores.memory import MemoryStore
from queueport.stores.sqlite import SqliteStore
from queueport.transport import Transport
from queueport.transport_driver import TransportDriver
from queueport.url import BackendURL
from tests.mutants import broken_brokers, broken_records, broken_running  # noqa: F401  # importing them registers their mutants
from tests.mutants.mutant import MUTANTS, NONE, Mutant
from tests.mutants.wire import WireTransport

__all__ = ["BrokenMemory", "BrokenSpool", "BrokenSqlite", "BrokenWire"]


def split(url: BackendURL) -> tuple[Mutant, BackendURL]:
    """Which mutant a URL names, and the URL of what it breaks."""
    options = dict(url.options)
    name = options.pop("mutant")
    return MUTANTS.get(name, NONE), BackendURL(url.text.removeprefix("broken-"), options)


class BrokenMemoryStore(MemoryStore):
    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        mutant, url = split(url)
        return super().open(url, namespace=mutant.namespace(namespace), call_timeout=call_timeout)


class BrokenSqliteStore(SqliteStore):
    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        mutant, url = split(url)
        return super().open(url, namespace=mutant.namespace(namespace), call_timeout=call_timeout)


class BrokenMemory(MemoryDriver):
    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        mutant, url = split(url)
        driver = super().open(url, settings, store)
        mutant.infect(store=store, driver=driver)
        return driver


class BrokenSqlite(SqliteDriver):
    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        mutant, url = split(url)
        driver = super().open(url, settings, store)
        mutant.infect(store=store, driver=driver)
        return driver


class BrokenTransport(TransportDriver):
    """A transport with one verb broken, its own or its store's."""

    @classmethod
    def sound(cls) -> type[Transport]:
        """The transport."""
        raise NotImplementedError

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        mutant, url = split(url)
        settings = settings.model_copy(update={"namespace": mutant.namespace(settings.namespace)})
        driver = cls(cls.sound().open(url, settings))
        mutant.infect(store=store, driver=driver, transport=driver.transport)
        return driver

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return cls.sound().default_store(split(url)[1])


class BrokenWire(BrokenTransport):
    @classmethod
    def sound(cls) -> type[Transport]:
        return WireTransport


class BrokenSpool(BrokenTransport):
    @classmethod
    def sound(cls) -> type[Transport]:
        sound: type[Transport] = importlib.import_module("05_write_an_adapter").SpoolTransport
        return sound
