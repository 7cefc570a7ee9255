"""The broken backends: `broken-sqlite:///jobs.db?mutant=NAME` is SQLite with the broken verb of that mutant.

The entry points in `installed/` make these backends known to `get_queue`, in worker processes too. The mutant `none`
breaks nothing.
"""

from __future__ import annotations

import importlib
from typing import Self

from queueport.spi.settings import Settings
from queueport.spi.store import JobStore
from queueport.spi.transport import Transport
from queueport.spi.url import BackendURL
from queueport.stores.driver import MemoryDriver, SqliteDriver
from queueport.stores.memory.store import MemoryStore
from queueport.stores.sqlite.store import SqliteStore
from tests.mutants import broken_brokers, broken_records, broken_running  # noqa: F401  # importing them registers their mutants
from tests.mutants.mutant import MUTANTS, NONE, Mutant
from tests.mutants.wire import WireTransport

__all__ = ["BrokenMemory", "BrokenSqlite", "BrokenWire"]


def split(url: BackendURL) -> tuple[Mutant, BackendURL]:
    """The mutant that the URL names, and the URL of the backend that the mutant breaks."""
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
        mutant.install(store=store, driver=driver)
        return driver


class BrokenSqlite(SqliteDriver):
    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        mutant, url = split(url)
        driver = super().open(url, settings, store)
        mutant.install(store=store, driver=driver)
        return driver


def broken(original: type[Transport]) -> type[Transport]:
    """A subclass of this transport. The mutant in its URL breaks one verb of the transport or of its store."""

    class Broken(original):  # type: ignore[valid-type,misc]  # a class that is only known at run time
        @classmethod
        def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
            mutant, url = split(url)
            settings = settings.model_copy(update={"namespace": mutant.namespace(settings.namespace)})
            transport = super().open(url, settings, store)
            mutant.install(store=store, driver=transport, transport=transport)
            opened: Self = transport
            return opened

        @classmethod
        def default_store(cls, url: BackendURL) -> str | None:
            return original.default_store(split(url)[1])

    return Broken


BrokenWire = broken(WireTransport)


def __getattr__(name: str) -> type[Transport]:
    """Create `BrokenSpool` on first use, because its import needs the folder of the examples on `sys.path`."""
    if name == "BrokenSpool":
        return broken(importlib.import_module("05_write_an_adapter").SpoolTransport)
    raise AttributeError(name)
