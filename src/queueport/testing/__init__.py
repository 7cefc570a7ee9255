"""The contract suite: every line of the contract as a test, for whoever writes an adapter. Needs pytest.

    from queueport.testing import Contract, Harness

    class TestMine(Contract):
        @pytest.fixture
        def harness(self):
            return MineHarness("mine://localhost?store=sqlite:////tmp/mine.db")

`queueport contract URL` runs it against any backend that can be reached, as far as that goes without the parts of a
`Harness` that control the server.
"""

from queueport.testing.harness import Harness
from queueport.testing.suite import Contract

__all__ = ["Contract", "Harness"]
