"""Items on their way to the Redis server, so many in one run of a script. For readers of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["batches"]

BATCH = 200
"""Items in one run of a script, so that none keeps the server from others for more than some milliseconds."""
BATCH_SIZE = 2**20
"""Bytes after which a batch is closed: the server takes 1 GiB from a client at once, `client-query-buffer-limit`."""


def batches(items: Sequence[list[bytes]]) -> Iterator[list[bytes]]:
    """The arguments of these items in as many batches as it takes, each after the number of its items."""
    start = size = 0
    for number, item in enumerate(items):
        if number > start and (number - start == BATCH or size > BATCH_SIZE):
            yield _joined(items[start:number])
            start, size = number, 0
        size += sum(map(len, item))
    if items:
        yield _joined(items[start:])


def _joined(items: Sequence[list[bytes]]) -> list[bytes]:
    return [b"%d" % len(items), *(argument for item in items for argument in item)]
