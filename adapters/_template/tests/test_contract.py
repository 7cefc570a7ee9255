"""Name keeps the contract: the whole suite of `queueport.testing`, against a real Name."""

from __future__ import annotations

import pytest

from queueport.testing import Contract, Harness


class TestName(Contract):
    """Every line of the contract that the capabilities of Name ask for."""

    @pytest.fixture
    def harness(self) -> Harness:
        return Harness(url="SCHEME://localhost?store=sqlite%3A%2F%2F%2F...")
