"""The test file of `queueport contract URL`. pytest collects it; nobody imports it."""

import pytest

from queueport.cli.contract import Report
from queueport.testing import Contract, Harness


class TestContract(Contract):
    """Every line of the contract, on the backend that the command was given."""

    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        """What can be done to a backend of which no more is known than its URL."""
        report = next(plugin for plugin in request.config.pluginmanager.get_plugins() if isinstance(plugin, Report))
        return Harness(url=report.url)
