"""The lifecycle under fire, for authors of stores: a Hypothesis state machine that runs against any JobStore.

    class Machine(LifecycleMachine):
        def make_store(self, clock):
            return MyStore(clock=clock)

    TestMyStore = Machine.TestCase

Actors (`operations`, `workers`) take their steps one call at a time; the `rules` kill them, freeze them, lose calls and
messages in between; the `ledger` holds every write against the promises.
"""

from queueport.testing.machine.rules import LifecycleMachine

__all__ = ["LifecycleMachine"]
