"""Interrupts threads that send messages, as a worker interrupts a task that enqueues jobs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

__all__ = ["interrupt_sends"]

ROUNDS = 50


class Interrupted(BaseException):
    """Raised in the thread, at a step that differs in each round."""


def interrupt_sends(send: Callable[[], object]) -> None:
    """Call `send` again and again in a thread until the thread is interrupted; do this in ROUNDS threads."""
    for _ in range(ROUNDS):
        ready, ended = threading.Event(), threading.Event()

        def send_often(ready: threading.Event = ready, ended: threading.Event = ended) -> None:
            try:
                ready.set()
                while True:
                    send()
            except Interrupted:
                ended.set()

        thread = threading.Thread(target=send_often)
        thread.start()
        assert ready.wait(5)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted))
        thread.join(10)
        assert ended.is_set()
