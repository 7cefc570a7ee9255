"""A producer that is forked 1,000 times: every child enqueues, and neither the parent nor the server grows.

GROWTH_FORKS is another number.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from queueport import get_queue
from queueport.testing.redis_store import Redis
from tests.growth.sizes import assert_no_growth, size

FORKS = int(os.environ.get("GROWTH_FORKS", "1000"))


@pytest.mark.timeout(0)
def test_a_forked_producer_does_not_grow(url: tuple[str, Redis | None], capsys: pytest.CaptureFixture[str]) -> None:
    address, server = url
    command = [sys.executable, "-m", "tests.growth.forking_producer", str(FORKS)]
    sizes = []
    with (
        get_queue(address) as queue,
        subprocess.Popen(
            command, env={**os.environ, "QUEUEPORT_URL": address}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as producer,
    ):
        assert producer.stdin is not None
        assert producer.stdout is not None
        for number in (FORKS // 10, FORKS):
            assert producer.stdout.readline() == f"after {number}\n".encode()
            sizes.append(size([producer.pid], server))
            producer.stdin.write(b"\n")
            producer.stdin.flush()
        assert producer.wait(30) == 0
        assert queue.stats().totals.queued == FORKS + 3
    first, last = sizes
    with capsys.disabled():
        print(f"\n{address.partition(':')[0]}, {FORKS} forks: {asdict(first)} -> {asdict(last)}")  # noqa: T201
    assert_no_growth(replace(first, keys=0), replace(last, keys=0))  # each queued job has keys
