"""The memory backend passes the contract suite. Tests that need a capability it does not declare are skipped."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from unittest.mock import Mock, patch

import pytest

from queueport.errors import BackendUnavailable
from queueport.stores.memory.store import MemoryStore
from queueport.testing import Contract
from tests.contract.stored import StoredHarness

VERBS = ("announce", "begin", "claim_due", "get", "heartbeat", "insert", "stats", "swap", "take")


class MemoryHarness(StoredHarness):
    """Simulates an outage: patches the memory store, which is always available, to raise BackendUnavailable."""

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        def refuse(*_: object) -> NoReturn:
            raise BackendUnavailable("the memory is down")

        with patch.object(MemoryStore, "insert", refuse):
            yield

    @contextmanager
    def store_down(self) -> Iterator[None]:
        down = Mock(side_effect=BackendUnavailable("the memory is down"))
        with patch.multiple(MemoryStore, **dict.fromkeys(VERBS, down)):
            yield


class TestMemory(Contract):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness(f"memory://{uuid.uuid4().hex}")
