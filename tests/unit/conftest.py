"""Fixtures that several test files in this folder use."""

from __future__ import annotations

from pathlib import Path

import pytest

from queueport.testing.trace import TRACE, Trace


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The trace in which the tasks of `queueport.testing.tasks` record their runs, in this process and its children."""
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)
