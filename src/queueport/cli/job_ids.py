"""Finds the job whose id somebody has shortened. For the commands that take an id."""

from __future__ import annotations

from queueport.engine.arguments import checked
from queueport.errors import JobNotFound
from queueport.queue import JobQueue
from queueport.spi.record import CorruptRecord

SHORTEST = 4
"""The minimum number of characters of a shortened id."""
SHOWN = 3
"""The maximum number of ids that an error lists."""


def full_id(queue: JobQueue, given: str) -> str:
    """The id that somebody means by `given`: this id, if there is such a job, else the only id that begins with it.

    Raises JobNotFound if there is none, or more than one, or if `given` cannot be an id.
    """
    checked(given)
    store = queue.operations.store
    try:
        found = store.get([given])[0] is not None
    except CorruptRecord:
        found = True
    if found:
        return given
    if len(given) < SHORTEST:
        raise JobNotFound(
            f"there is no job {given!r} in this namespace; a shortened id needs {SHORTEST} characters or more"
        )
    ids = store.ids(given, SHOWN + 1)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise JobNotFound(
            f"there is no job {given!r} in this namespace, and no id begins with it: the job never existed, or its "
            "record was removed, for example when its retention was over"
        )
    shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
    raise JobNotFound(f"{given!r} is the beginning of several ids: write more characters of one of them: {shown}")
