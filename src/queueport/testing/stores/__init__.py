"""The tests that every store must pass, with the memory store as the model. For authors of stores.

    class Harness(StoreHarness):
        def open(self, namespace="suite", clock=None):
            return MyStore(URL, namespace) if clock is None else MyStore(URL, namespace, clock=clock)

    class TestMyStore(SharedSuite, ClaimingSuite):
        @pytest.fixture
        def harness(self):
            return Harness()

Inherit from SharedSuite if several processes can use the store, from ClaimingSuite if the store is also a queue, from
both if both are true, and from StoreSuite in any other case. SharedSuite also needs
`StoreHarness.damage` and `StoreHarness.damage_document`.
"""

from queueport.errors import NeedsExtra

with NeedsExtra("testing", __name__):
    import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in (
            "claiming",
            "counting",
            "dispatching",
            "documents",
            "history",
            "machine",
            "reading",
            "sharing",
            "writing",
        )
    )
)

with NeedsExtra("testing", __name__):  # after the registration for assert rewriting
    from queueport.testing.stores.claiming import ClaimingSuite
    from queueport.testing.stores.harness import Clock, StoreHarness
    from queueport.testing.stores.suite import SharedSuite, StoreSuite

__all__ = ["ClaimingSuite", "Clock", "SharedSuite", "StoreHarness", "StoreSuite"]
