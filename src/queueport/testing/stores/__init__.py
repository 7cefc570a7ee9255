"""The suite that every store passes, for their authors: each verb's obligations, with the memory store as the model.

    class Harness(StoreHarness):
        def open(self, namespace="suite", clock=None):
            return MyStore(URL, namespace) if clock is None else MyStore(URL, namespace, clock=clock)

    class TestMyStore(SharedSuite, ClaimingSuite):
        @pytest.fixture
        def harness(self):
            return Harness()

SharedSuite is for a store that processes share, ClaimingSuite for one that is a queue by itself, StoreSuite for others.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in ("claiming", "counting", "dispatching", "machine", "reading", "sharing", "writing")
    )
)

from queueport.testing.stores.claiming import ClaimingSuite  # noqa: E402  # asserts are to explain themselves
from queueport.testing.stores.harness import Clock, StoreHarness  # noqa: E402  # the same
from queueport.testing.stores.suite import SharedSuite, StoreSuite  # noqa: E402  # the same

__all__ = ["ClaimingSuite", "Clock", "SharedSuite", "StoreHarness", "StoreSuite"]
