"""The code of every benchmark job, the same for each library. It records when it starts.

Each start is 8 bytes at the end of the file in BENCH_STARTS, so its size is the number of jobs that were started.
"""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from pathlib import Path

__all__ = ["count_starts", "probe", "read_starts"]

START = struct.Struct("=q")


def probe(milliseconds: float) -> int:
    """Record the start, then sleep; returns 1, so that the library has a result to keep."""
    os.write(_starts(), START.pack(time.monotonic_ns()))
    if milliseconds:
        time.sleep(milliseconds / 1000)
    return 1


@cache
def _starts() -> int:
    return os.open(os.environ["BENCH_STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def read_starts(path: str) -> list[int]:
    """The starts so far, in nanoseconds on the clock of `time.monotonic_ns`, which all processes share."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    return [start for (start,) in START.iter_unpack(data[: len(data) // START.size * START.size])]


def count_starts(path: str) -> int:
    """The number of starts so far. It does not read them, because the benchmark asks many times a second."""
    try:
        return os.path.getsize(path) // START.size  # noqa: PTH202  # faster than a Path
    except FileNotFoundError:
        return 0
