"""Tells somebody who names a queue that nothing uses it. For the commands that take the name of a queue."""

from __future__ import annotations

from collections.abc import Collection

import typer

from queueport.cli.output import one_line
from queueport.engine.thresholds import unused
from queueport.errors import BackendUnavailable
from queueport.queue import JobQueue


def known_queues(queue: JobQueue) -> Collection[str] | None:
    """The queues that have jobs or live workers; None if the store does not answer."""
    store = queue.operations.store
    try:
        return {*store.stats().queues, *(name for worker in store.workers() for name in worker.queues)}
    except BackendUnavailable:
        return None


def note_unused(name: str, known: Collection[str] | None) -> None:
    """Print a note on standard error if the queue is not one of the `known` ones."""
    if known is not None and name not in known:
        typer.echo(f"note: {one_line(unused(name, known))}", err=True)
