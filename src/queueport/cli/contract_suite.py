"""The test file that `queueport contract URL` gives to pytest. No other module imports it."""

import pytest

from queueport.cli.contract import Report
from queueport.testing import Contract, Harness


class TestContract(Contract):
    """The contract suite, for the backend whose URL was given to the command."""

    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        """A harness without optional parts, because only the URL of the backend is known."""
        report = next(plugin for plugin in request.config.pluginmanager.get_plugins() if isinstance(plugin, Report))
        return Harness(url=report.url)
