"""SQLite keeps its promises while a worker is killed, replaced and stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.chaos import check_chaos


@pytest.mark.timeout(180)  # on a busy machine, servers and workers take long to start
def test_no_breach_is_found(tmp_path: Path) -> None:
    check_chaos(f"sqlite:///{tmp_path}/jobs.db", "child", "roll", "stop")
