"""`python -m tests.chaos.forgetful_worker worker`: a `queueport` whose attempts end without a check of the token."""

from __future__ import annotations

from typing import Any

from queueport.cli import main
from queueport.engine.lifecycle import Lifecycle
from queueport.engine.rules import Refusal
from queueport.spi.record import Change, Record

finish = Lifecycle.finish


def forgetful(self: Lifecycle, record: Record, **given: Any) -> Change | Refusal:
    """End the present attempt of the record, whoever runs it."""
    return finish(self, record, **{**given, "token": record.token})


if __name__ == "__main__":
    Lifecycle.finish = forgetful  # type: ignore[method-assign]
    main()
