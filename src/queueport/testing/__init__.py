"""For tests of apps: `FakeQueue`, `fake`, `inline`, `run_task`. For tests of adapters: `Contract` and `Harness`.

    from queueport.testing import fake

    with fake() as queue:                    # an in-memory queue, the default until the block ends
        sign_up("ann@example.org")
    queue.assert_enqueued(send_welcome)

With pytest, the fixture `job_queue` is such a queue; docs/testing.md explains the fixture. The tests of adapters need
pytest:

    from queueport.testing import Contract, Harness

    class TestMine(Contract):
        @pytest.fixture
        def harness(self):
            return MineHarness("mine://localhost?store=sqlite:////tmp/mine.db")

`queueport.testing.contract` has one module for each group of the contract, and docs/contract.md explains the lines.
`queueport contract URL` runs the suite against any backend that can be reached. The command does not use the adapter's
own `Harness`, so the tests that need methods such as `wipe` are skipped.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queueport.errors import NeedsExtra

if TYPE_CHECKING:
    from queueport.testing.contract.suite import Contract
    from queueport.testing.fake_default import fake, inline
    from queueport.testing.fake_queue import FakeQueue
    from queueport.testing.harness import Harness
    from queueport.testing.task_run import TaskRun, run_task

__all__ = ["Contract", "FakeQueue", "Harness", "TaskRun", "fake", "inline", "run_task"]

KIT = {
    "FakeQueue": "fake_queue",
    "fake": "fake_default",
    "inline": "fake_default",
    "TaskRun": "task_run",
    "run_task": "task_run",
}
"""The names for tests of applications, and for each the module that defines it. These modules do not import pytest."""


def __getattr__(name: str) -> Any:
    """Import the module of a name in `__all__` only when the name is used.

    Some of these modules import pytest. Worker processes import this package for `queueport.testing.tasks`, and must
    not need pytest.
    """
    if name in KIT:
        return getattr(import_module(f"{__name__}.{KIT[name]}"), name)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with NeedsExtra("testing", f"{__name__}.{name}"):
        import pytest

    folder = Path(__file__).parent
    paths = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
    modules = {".".join((__name__, *path.parts)) for path in paths}
    pytest.register_assert_rewrite(*modules - sys.modules.keys())  # pytest then shows the values in a failed assert
    return getattr(import_module(f"{__name__}.{'contract.suite' if name == 'Contract' else 'harness'}"), name)
