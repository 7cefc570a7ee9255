"""What is worth a warning, or a refusal, about a Redis server in use. For readers of the Redis store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.stores.redis_connection import Redis

__all__ = ["warnings"]

OLDEST_REDIS = (6, 2)
"""Before it a script that reads the clock, and then writes, needs settings of its own."""
FULL = 0.9
"""The share of its memory from which it is worth a word."""


def warnings(redis: Redis, aside: bytes) -> list[str]:
    """One sentence for each thing that somebody should look at. `aside` is the key of the records put aside.

    INFO is asked, for managed servers forbid CONFIG; CONFIG is asked only for what INFO does not say.
    Raises ConfigurationError where jobs would be lost, BackendUnavailable where nothing can be written.
    """
    shown = redis.target.shown
    asked = redis.ask([(b"INFO",), (b"CONFIG", b"GET", b"save"), (b"ZCARD", aside)])
    if isinstance(asked[0], RedisError):
        return [f"the Redis at {shown} does not say how it is run ({asked[0]}): see that it never evicts keys"]
    info = _info(asked[0])
    _refuse(shown, info)
    found = []
    if info.get("aof_enabled") == "0" and _no_snapshots(asked[1]):
        found.append(
            f"the Redis at {shown} keeps nothing on disk: a restart loses every job; set appendonly yes, which loses a "
            "second at most"
        )
    limit, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if limit and used > FULL * limit:
        found.append(f"the Redis at {shown} has used {used / limit:.0%} of its memory: raise its maxmemory")
    if isinstance(asked[2], int) and asked[2]:
        found.append(f"{asked[2]} jobs in the Redis at {shown} could not be read; their ids are in {aside.decode()}")
    return found


def _refuse(shown: str, info: Mapping[str, str]) -> None:
    version = info.get("valkey_version") or info.get("redis_version", "")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers and numbers < OLDEST_REDIS:
        raise ConfigurationError(
            f"the Redis at {shown} has version {version}, and queueport needs 6.2: use a newer one"
        )
    if info.get("role") == "slave":
        raise BackendUnavailable(f"the Redis at {shown} is a read-only replica: name the primary")
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys"):  # volatile policies take only keys with a time to live, and ours have none
        raise ConfigurationError(
            f"the Redis at {shown} drops jobs when its memory is full (maxmemory-policy {policy}): set noeviction"
        )


def _no_snapshots(answer: Any) -> bool:
    """False also where the server does not tell."""
    return isinstance(answer, list) and len(answer) == 2 and answer[1] == b""


def _info(answer: bytes) -> dict[str, str]:
    lines = answer.decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
