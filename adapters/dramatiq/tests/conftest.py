"""The fixture `trace`, in which the tasks of a test record their runs. For the tests of this adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from queueport.testing.trace import TRACE, Trace


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)
