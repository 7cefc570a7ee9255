"""Measures processes and servers. For the tests of growth."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import redis

from queueport.testing.redis_store import Redis
from queueport.testing.waiting import eventually

__all__ = ["Size", "assert_no_growth", "processes", "settled", "size"]


@dataclass(frozen=True, slots=True)
class Size:
    """The size of processes together, and of their server while no job waits."""

    rss: int
    """The resident memory in MB."""
    files: int
    threads: int
    connections: int
    keys: int
    """The number of keys that do not expire. RQ keeps a job and its result for at least 500 seconds."""


def assert_no_growth(first: Size, last: Size) -> None:
    """Fail if the size has grown by more than caches and the moment of the measurement explain."""
    assert last.rss <= first.rss * 1.1 + 5
    assert last.files <= first.files + 5
    assert last.threads <= first.threads + 2
    assert last.connections <= first.connections + 5
    assert last.keys <= first.keys + 20


def settled(group: int, server: Redis | None) -> Size:
    """The size of a process group when it no longer changes, except for the memory: the framework's worker has ended
    its bookkeeping.
    """
    found = [size(processes(group), server)]

    def unchanged() -> bool:
        found.append(size(processes(group), server))
        return replace(found[-1], rss=0) == replace(found[-2], rss=0)

    eventually(unchanged, 30, lambda: found[-2:])
    return found[-1]


def size(pids: Iterable[int], server: Redis | None) -> Size:
    """Measure these processes together, and the server."""
    pids = list(pids)
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
    connections = keys = 0
    if server is not None:
        with redis.Redis.from_url(server.url) as client:
            keyspace = client.info("keyspace")["db0"]
            connections, keys = client.info("clients")["connected_clients"], keyspace["keys"] - keyspace["expires"]
    return Size(
        sum(_value(text, "VmRSS") for text in status) // 1024,
        files,
        sum(_value(text, "Threads") for text in status),
        connections,
        keys,
    )


def processes(group: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


def _value(status: str, name: str) -> int:
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])
