"""A private RabbitMQ node with its management API, started from an installed RabbitMQ. For `tests.servers`."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import pika
from pika.exceptions import AMQPError

from queueport.testing.servers import Missing, PrivateServer, answers, free_port, private_folder

__all__ = ["LARGEST", "RabbitMQ"]

LARGEST = 17 * 2**20
"""Maximum bytes of a message of a private node: more than queueport sends by default."""

DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The server program of the Debian package. The script on PATH changes the user, and so fails or loses settings."""


class RabbitMQ(PrivateServer):
    """A node with a unique name and its own ports. It takes some seconds to start."""

    def __init__(self) -> None:
        found = str(DEBIAN) if DEBIAN.exists() else shutil.which("rabbitmq-server")
        if found is None:
            raise Missing("RabbitMQ was not found: start one on port 5672, or install rabbitmq-server")
        self._program = found
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
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except AMQPError:
            return False
        request = urllib.request.Request(f"http://127.0.0.1:{self.management_port}/api/")
        try:
            urllib.request.urlopen(request, timeout=1.0).close()
        except urllib.error.HTTPError:  # the server asks for a password, so it is ready
            return True
        except OSError:
            return False
        return True
