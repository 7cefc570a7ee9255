"""The suite that every store passes, for their authors: each verb's obligations, with the memory store as the model.

class Harness(StoreHarness):
    def open(self, namespace="suite", clock=None):
        return MyStore(URL, namespace=namespace, clock=clock or time.time)

class TestMyStore(StoreSuite):          # ClaimingSuite for a store that is a queue by itself
    @pytest.fixture
    def harness(self):
        return Harness()
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
