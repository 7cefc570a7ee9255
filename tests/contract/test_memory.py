"""The memory backend keeps the contract, as far as one process can show: it declares no PERSISTENT."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from unittest.mock import Mock, patch

import pytest

from queueport.errors import BackendUnavailable
from queueport.stores.memory import MemoryStore
from queueport.testing import Contract
from tests.contract.stored import StoredHarness

VERBS = ("announce", "begin", "claim_due", "get", "heartbeat", "insert", "stats", "swap", "take")


class MemoryHarness(StoredHarness):
    """Nothing of it can be away, so it is made to say so."""

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        def refuse(*_: object) -> NoReturn:
            raise BackendUnavailable("the memory is away")

        with patch.object(MemoryStore, "insert", refuse):
            yield

    @contextmanager
    def store_down(self) -> Iterator[None]:
        away = Mock(side_effect=BackendUnavailable("the memory is away"))
        with patch.multiple(MemoryStore, **dict.fromkeys(VERBS, away)):
            yield


class TestMemory(Contract):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness(f"memory://{uuid.uuid4().hex}")
