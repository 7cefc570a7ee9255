"""The memory backend keeps the contract, as far as one process can show: it declares no PERSISTENT."""

from __future__ import annotations

import uuid

import pytest

from queueport.testing import Contract
from tests.contract.stored import StoredHarness


class TestMemory(Contract):
    @pytest.fixture
    def harness(self) -> StoredHarness:
        return StoredHarness(f"memory://{uuid.uuid4().hex}")
