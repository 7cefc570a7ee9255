"""The emulator process that `tests.servers.aws` starts: `python moto_process.py PORT`. For those who upgrade moto.

The process reads the commands "down" and "up", one on each line, from standard input. moto keeps its data in memory, so
"down" only closes the port, and the process keeps the data. This process changes moto in five ways:

- DynamoDB handles one call at a time. The original takes no lock, so two conditional writes could both succeed.
- A cancelled DynamoDB transaction restores only the items that it touched. The original restores the whole table, which
  undoes the writes that other clients made meanwhile.
- DynamoDB items in answers are converted to JSON directly. The original first looks up each value in a model of the
  service, which is slow.
- SQS reads the clock with `time.time`. The original uses a slow function, twice for each message that is sent.
- A connection serves many calls. In the original, it serves one.
"""

import base64
import copy
import functools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from moto.core.utils import unix_time_millis
from moto.dynamodb import models
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler, DynamoResult
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.sqs import models as sqs
from werkzeug.serving import WSGIRequestHandler

LOCK = threading.RLock()
ITEMS = {"Item", "Items", "Responses", "Attributes"}
ORIGINAL_RESULT = DynamoResult.execute_result


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(*arguments: Any, **options: Any) -> Any:
        with LOCK:
            return method(*arguments, **options)

    return locked


class PartialCopy:
    """Replaces the module `copy` in moto's models. A copy of a table copies only items that the transaction touches."""

    def __init__(self) -> None:
        self.touched: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(copy, name)

    def deepcopy(self, original: Any, memo: Any = None) -> Any:
        if not isinstance(original, Table):
            return copy.deepcopy(original, memo)
        table = copy.copy(original)
        table.items = copy.copy(original.items)
        for key in list(table.items):
            if key.value in self.touched:
                table.items[key] = copy.deepcopy(table.items[key])
        return table


def milliseconds(moment: Any = None) -> float:
    """Milliseconds since the epoch; now, if no moment is given."""
    return time.time() * 1000 if moment is None else unix_time_millis(moment)


def write_items(self: Any, context: Any) -> Any:
    """Convert an answer with items directly to JSON. The values in `DynamoResult` already have the right form."""
    if ITEMS.isdisjoint(self.result):
        return ORIGINAL_RESULT(self, context)
    present = {name: value for name, value in self.result.items() if value is not None}
    body = json.dumps(present, default=lambda binary: base64.b64encode(binary).decode())
    return 200, {"Content-Type": "application/x-amz-json-1.0"}, body


def keep_connections() -> set[socket.socket]:
    """Let a connection serve many calls. Returns a set that always contains the connections that are open."""
    open_connections: set[socket.socket] = set()
    setup, finish = WSGIRequestHandler.setup, WSGIRequestHandler.finish

    def begin(self: Any) -> None:
        setup(self)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_connections.add(self.connection)

    def end(self: Any) -> None:
        open_connections.discard(self.connection)
        finish(self)

    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    WSGIRequestHandler.setup, WSGIRequestHandler.finish = begin, end  # type: ignore[method-assign]
    return open_connections


def patch_moto() -> None:
    """Change moto in this process as described above."""
    sqs.__dict__["unix_time_millis"] = milliseconds
    partial_copy = PartialCopy()
    models.__dict__["copy"] = partial_copy
    transact = DynamoDBBackend.transact_write_items

    def transact_write_items(self: Any, transact_items: list[dict[str, Any]]) -> None:
        actions = [action for item in transact_items for action in item.values()]
        partial_copy.touched = [(action.get("Key") or action["Item"])["pk"]["S"] for action in actions]
        transact(self, transact_items)

    DynamoDBBackend.transact_write_items = transact_write_items  # type: ignore[method-assign]
    DynamoResult.execute_result = write_items  # type: ignore[method-assign]
    DynamoHandler.call_action = one_at_a_time(DynamoHandler.call_action)  # type: ignore[method-assign]


def main(port: int) -> None:
    """Run the emulator and execute the commands from standard input, until the input ends."""
    patch_moto()
    connections = keep_connections()
    server = start_server(port)
    for line in sys.stdin:
        if line == "down\n":
            server.stop()
            for connection in list(connections):
                with suppress(OSError):  # the client has closed the connection
                    connection.shutdown(socket.SHUT_RDWR)
        else:
            server = start_server(port)


def start_server(port: int) -> ThreadedMotoServer:
    """Start a server. It accepts connections when this function returns."""
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    return server


if __name__ == "__main__":
    main(int(sys.argv[1]))
