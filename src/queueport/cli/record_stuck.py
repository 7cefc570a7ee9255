"""The exit recorder, `python -m queueport.cli.record_stuck`: records how stuck attempts ended. Native workers start it.

Just before a native worker exits because of stuck attempts, the worker starts this program and writes one line of JSON
to the program's standard input. When the input ends, the worker's process has ended, and so has the code of the stuck
attempts.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from queueport.connect import get_queue
from queueport.spi import settings
from queueport.workers.runner import finish_stuck

logger: logging.Logger = logging.getLogger("queueport")


def main() -> None:
    """Wait until the worker's process has ended, then record how its stuck attempts ended.

    Logs a warning for each attempt whose end may not have been recorded.
    """
    spec: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = spec["path"]
    sys.stdin.read()
    settings.warned.update(settings.unknown_variables())  # the worker has already logged these warnings
    with get_queue(spec["url"], **spec["settings"]) as queue:
        for attempt in spec["stuck"]:
            try:
                finish_stuck(queue.operations, attempt)
            except Exception as error:  # noqa: BLE001  # an error must not stop the other attempts
                message = "job %s: the end of its stuck attempt may not be recorded, and may count as a crash: %s"
                logger.warning(message, attempt["id"], error)


if __name__ == "__main__":
    main()
