"""`Contract`: all groups of the contract in one class. For the test file of an adapter."""

from __future__ import annotations

import inspect

from queueport.testing.contract.cancel import CancelTests
from queueport.testing.contract.crash import CrashTests
from queueport.testing.contract.dead_letters import DeadLetterTests
from queueport.testing.contract.enqueue import EnqueueTests
from queueport.testing.contract.follow_ups import FollowUpTests
from queueport.testing.contract.hygiene import HygieneTests
from queueport.testing.contract.limits import LimitTests
from queueport.testing.contract.lines import LINES, lines_of
from queueport.testing.contract.recurring import RecurringTests
from queueport.testing.contract.retry import RetryTests
from queueport.testing.contract.stats import StatsTests
from queueport.testing.contract.status import StatusTests
from queueport.testing.contract.time import TimeTests
from queueport.testing.contract.worker import WorkerTests

__all__ = ["Contract"]


class Contract(
    EnqueueTests,
    TimeTests,
    StatusTests,
    RetryTests,
    DeadLetterTests,
    CancelTests,
    StatsTests,
    WorkerTests,
    CrashTests,
    RecurringTests,
    FollowUpTests,
    LimitTests,
    HygieneTests,
):
    """The tests of every contract line. A test class inherits from this class and overrides the fixture `harness`.

    The tests of the quick subset have an attribute `quick`. `pytest -k quick` selects them, because `-k` also matches
    the names of a test's attributes.
    """


for _name, _test in inspect.getmembers(Contract, inspect.isfunction):
    if any(LINES[line].quick for line in lines_of(_name)):
        _test.__dict__["quick"] = True
