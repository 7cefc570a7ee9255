"""Dramatiq keeps its promises while a worker is killed and replaced, a server is cut off, and a clock is wrong."""

from __future__ import annotations

import pytest

from tests.servers import redis_server
from tests.servers.chaos import check_chaos


@pytest.mark.timeout(180)  # on a busy machine, servers and workers take long to start
def test_no_breach_is_found() -> None:
    check_chaos(f"dramatiq+{redis_server(private=True).url}", "child", "roll", "cut", "clock-ahead")
