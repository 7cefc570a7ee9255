"""`Profiled`: the memory backend with the name, limits and capabilities of another backend. For `FakeQueue`."""

from __future__ import annotations

from queueport import connect
from queueport.capability import Limits
from queueport.spi.driver import Driver
from queueport.spi.settings import read
from queueport.spi.store import JobStore
from queueport.spi.url import BackendURL
from queueport.stores.driver import MemoryDriver
from queueport.stores.memory.store import MemoryStore

__all__ = ["Profiled"]


class Profiled(MemoryDriver):
    """The memory backend with the name, limits and capabilities of the backend whose scheme or URL is `profile`.

    If `profile` is a URL, and the URL or the environment variable QUEUEPORT_STORE names a store, the limits of that
    store apply, too. Raises ConfigurationError for a profile that is wrong or not installed.
    """

    def __init__(self, store: MemoryStore, profile: str) -> None:
        super().__init__(store)
        backend: type[Driver] | Driver = connect.load(profile.partition("://")[0], Driver)
        limits = backend.limits
        if "://" in profile and isinstance(backend, type):
            url, settings = read(profile, {})
            backend = backend.open(url, settings, store)  # this opens no connection: the `open` of a driver does no I/O
            limits = backend.limits
            if settings.store is not None:
                limits = limits.smaller(connect.load(BackendURL.parse(settings.store).scheme, JobStore).limits)
        self.name = backend.name
        self.capabilities = backend.capabilities
        self.limits: Limits = limits
