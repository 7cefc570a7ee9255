"""The process behind `tests.servers.aws`: `python moto_process.py PORT`, then "down" and "up", a line each.

moto keeps everything in memory, so "down" closes its port and keeps the process: what it holds survives. Its DynamoDB
is made fit to test a store, one call at a time, as if each were atomic. As it is it serves threads without a lock, so
that two conditional writes may both succeed; and it undoes a cancelled transaction by putting back a copy of the whole
table, with which the writes of others meanwhile are gone. Its answers walk through a model of every value: here items
are written as they are. Its SQS reads the clock twice for every message in the queue at each send, by a long way round:
here it looks at the clock itself. And it serves one call on a connection: here many.
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
MODELLED = DynamoResult.execute_result


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(*arguments: Any, **options: Any) -> Any:
        with LOCK:
            return method(*arguments, **options)

    return locked


class Undoing:
    """Stands for the module `copy` in moto's models: of a table, only what a transaction touches is copied."""

    def __init__(self) -> None:
        self.touched: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(copy, name)

    def deepcopy(self, thing: Any, memo: Any = None) -> Any:
        if not isinstance(thing, Table):
            return copy.deepcopy(thing, memo)
        kept = copy.copy(thing)
        kept.items = copy.copy(thing.items)
        for key in list(kept.items):
            if key.value in self.touched:
                kept.items[key] = copy.deepcopy(kept.items[key])
        return kept


def milliseconds(moment: Any = None) -> float:
    """Since 1970."""
    return time.time() * 1000 if moment is None else unix_time_millis(moment)


def item_answer(self: Any, context: Any) -> Any:
    """The answer of an operation on items, which `DynamoResult` has brought into the form that is sent."""
    if ITEMS.isdisjoint(self.result):
        return MODELLED(self, context)
    told = {name: value for name, value in self.result.items() if value is not None}
    body = json.dumps(told, default=lambda binary: base64.b64encode(binary).decode())
    return 200, {"Content-Type": "application/x-amz-json-1.0"}, body


def keep_connections() -> set[socket.socket]:
    """Serve many calls on one connection; those that are open."""
    kept: set[socket.socket] = set()
    setup, finish = WSGIRequestHandler.setup, WSGIRequestHandler.finish

    def begin(self: Any) -> None:
        setup(self)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kept.add(self.connection)

    def end(self: Any) -> None:
        kept.discard(self.connection)
        finish(self)

    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    WSGIRequestHandler.setup, WSGIRequestHandler.finish = begin, end  # type: ignore[method-assign]
    return kept


def mend() -> None:
    """Make moto, in this process, as it is said above."""
    sqs.__dict__["unix_time_millis"] = lambda moment=None: (
        time.time() * 1000 if moment is None else unix_time_millis(moment)
    )
    undoing = Undoing()
    models.__dict__["copy"] = undoing
    transact = DynamoDBBackend.transact_write_items

    def transact_write_items(self: Any, transact_items: list[dict[str, Any]]) -> None:
        actions = [action for item in transact_items for action in item.values()]
        undoing.touched = [(action.get("Key") or action["Item"])["pk"]["S"] for action in actions]
        transact(self, transact_items)

    DynamoDBBackend.transact_write_items = transact_write_items  # type: ignore[method-assign]
    DynamoResult.execute_result = item_answer  # type: ignore[method-assign]
    DynamoHandler.call_action = one_at_a_time(DynamoHandler.call_action)  # type: ignore[method-assign]


def main(port: int) -> None:
    """Serve until standard input ends."""
    mend()
    kept = keep_connections()
    server = started(port)
    for line in sys.stdin:
        if line == "down\n":
            server.stop()
            for connection in list(kept):
                with suppress(OSError):  # it ended just now
                    connection.shutdown(socket.SHUT_RDWR)
        else:
            server = started(port)


def started(port: int) -> ThreadedMotoServer:
    """An emulator that serves."""
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    return server


if __name__ == "__main__":
    main(int(sys.argv[1]))
