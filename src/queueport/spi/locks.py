"""Keeps locks correct when a process forks or a thread is interrupted. For authors of stores and adapters."""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial

__all__ = ["ForkAware", "owned"]


class ForkAware:
    """The base class of an object that prepares for each fork of its process.

    In the child, only the thread that forked exists. Without preparation, a lock that another thread held would never
    be released in the child, and data that another thread was changing would stay inconsistent.
    """

    def __init__(self) -> None:
        _all.add(self)

    def before_fork(self) -> None:
        """Prepare for the fork, for example by acquiring locks. Does nothing by default."""

    def after_fork(self, *, child: bool) -> None:
        """Undo what `before_fork` did. In the child, also replace what only the parent may use.

        Called in the parent and in the child. Does nothing by default.
        """


def owned(lock: threading.RLock) -> bool:
    """True if the calling thread holds the lock.

    Do not use a flag for this. An interruption can stop a thread after it has acquired the lock and before it sets the
    flag.
    """
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


_all: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_forking: list[ForkAware] = []
_one_at_a_time = threading.RLock()
"""A thread that forks holds this lock until its fork is complete, because several threads may fork at once."""


def _before_fork() -> None:
    _one_at_a_time.acquire()
    _forking[:] = _all
    for each in _forking:
        each.before_fork()


def _after_fork(child: bool) -> None:
    if owned(_one_at_a_time):
        while _forking:
            _forking.pop().after_fork(child=child)
        _one_at_a_time.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=partial(_after_fork, child=False),
    after_in_child=partial(_after_fork, child=True),
)
