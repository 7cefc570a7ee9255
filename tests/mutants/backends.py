"""The broken backends: `broken-sqlite:///jobs.db?mutant=NAME` is SQLite with that mutant's verb. For `get_queue`.

They are installed by their entry points in `installed/`, in worker processes too. NAME `none` breaks nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Self

import queueport
from queueport.backends.memory import MemoryDriver
from queueport.backends.sqlite import SqliteDriver
from queueport.driver import Driver
from queueport.settings import Settings
from queueport.store import JobStore
from queueport.transport import Transport
from queueport.transport_driver import TransportDriver
from queueport.url import BackendURL
