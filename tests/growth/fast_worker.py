"""`queueport` with a clock that runs fast, also in waits. It writes the hours that have passed to a file.

`test_worker` runs it: python -m tests.growth.fast_worker worker MODULE
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

SPEED = float(os.environ.get("GROWTH_SPEED", "2400"))

_monotonic, _time, _sleep, _wait = time.monotonic, time.time, time.sleep, threading.Condition.wait
_first, _first_wall = _monotonic(), _time()


def _passed() -> float:
    """Seconds since the start on the fast clock."""
    return (_monotonic() - _first) * SPEED


def _fast_wait(condition: threading.Condition, timeout: float | None = None) -> bool:
    return _wait(condition, None if timeout is None else timeout / SPEED)


def _write(clock: Path) -> None:
    while True:
        clock.write_text(str(_passed() / 3600))
        _sleep(0.5)


if __name__ == "__main__":
    for module, name, fast in [
        (time, "monotonic", lambda: _first + _passed()),
        (time, "time", lambda: _first_wall + _passed()),
        (time, "sleep", lambda seconds: _sleep(seconds / SPEED)),
        (threading, "_time", lambda: _first + _passed()),  # for `Condition.wait_for`
        (threading.Condition, "wait", _fast_wait),
    ]:
        setattr(module, name, fast)
    threading.Thread(target=_write, args=[Path(os.environ["GROWTH_CLOCK"])], daemon=True).start()

    from queueport.cli import main  # after the clock is fast

    main()
