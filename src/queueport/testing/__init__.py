"""The contract suite: every line of the contract as a test, for whoever writes an adapter. Needs pytest.

    from queueport.testing import Contract, Harness

    class TestMine(Contract):
        @pytest.fixture
        def harness(self):
            return MineHarness("mine://localhost?store=sqlite:////tmp/mine.db")

`queueport contract URL` runs it against any backend that can be reached, as far as that goes without the parts of a
`Harness` that control the server.
"""

import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queueport.testing.harness import Harness
    from queueport.testing.suite import Contract

__all__ = ["Contract", "Harness"]


def __getattr__(name: str) -> Any:
    """Import the suite when it is asked for: a worker process, which imports the suite's tasks, does without pytest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    modules = {f"{__name__}.{module.name}" for module in iter_modules(__path__)}
    pytest.register_assert_rewrite(*modules - sys.modules.keys())  # so that a failed assert shows its values
    return getattr(import_module(f"{__name__}.{'suite' if name == 'Contract' else 'harness'}"), name)
