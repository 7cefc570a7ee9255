"""The fault search: a Hypothesis state machine that runs production code over any JobStore. For authors of stores.

    class Machine(LifecycleMachine):
        def make_store(self, clock):
            return MyStore(clock=clock)

    TestMyStore = Machine.TestCase

**Actors.** Producers and operators call a `JobQueue`. Two worker processes each have a worker, which takes, begins,
runs and finishes jobs, a heartbeat thread, a dispatcher, and the code that runs after SIGTERM. All of this is
production code (`processes` puts it together), over the store under test and a simulated broker, or over the store as
the queue. Each actor has a thread, and only one thread runs at a time (`scheduler`).

**Points.** An actor hands control back at a point: before and after the effect of each call to store or broker, inside
a task's code, and wherever production code waits (`Runtime.wait`, and locks that are held during a call). Most steps
say how many points an actor passes. Nothing else switches threads and nothing sleeps. Time moves only while no actor
runs, and ids are numbers (`simulation`). The example that Hypothesis prints therefore replays exactly.

**Steps.** Hypothesis chooses from `steps`:
- an actor passes some points, or finishes its procedure; or all actors that are not frozen finish their work;
- a call fails before its effect, its answer is lost, or the broker refuses a message;
- a process is killed, frozen, continued, or told to stop, with a task that can or cannot be interrupted;
- time passes, with or without the heartbeats of a process; the store is unreachable for longer than a lease;
- a message is lost, repeated, deferred, redelivered, or redriven with the broker's own tools;
- jobs are enqueued, cancelled, retried, discarded and purged. Their tasks succeed, fail, abort, ask to be retried
  later, or exceed their timeout.

**Checks.** The `checker` compares all records after each call that may write, and knows which actor made the call. It
checks who moves a job from one state to another, tokens, budgets, lives, keys, counts and counters, claims and leases,
what callers were told, and that no job runs twice at the same time while its lease lasts. At the end of an `example`
the faults end. Then each job must end, each dead job must be buried if the broker has dead letters, and no record may
be left when retention is over. Without faults, the hooks of each job that died must have been called. An error in the
log of production code is a failure, too.

**Features.** `LimitMachine`, `FollowUpMachine` and `ScheduleMachine` (`features`) have limits, batches and chains, and
a schedule. `promises` has their checks: no limit is exceeded and no job waits although it may begin; a job that follows
others is due exactly when the last of these has ended; and each tick has one job.

`tests/lifecycle` breaks each rule of the protocol, in the lifecycle, a store or the production code. For each broken
rule, the search must find an example in which a promise is broken.
"""

from queueport.errors import NeedsExtra

with NeedsExtra("testing", __name__):
    from queueport.testing.machine.features import FollowUpMachine, LimitMachine, ScheduleMachine
    from queueport.testing.machine.steps import LifecycleMachine

__all__ = ["FollowUpMachine", "LifecycleMachine", "LimitMachine", "ScheduleMachine"]
