"""What queues are called in SQS: `{prefix}{namespace}-{queue}`, and `-dead` after it for its dead letters.

SQS takes letters, digits, hyphens and underscores, 80 in all; queueport's names have dots besides. No two queues may
share a name, and none a name with another's dead letters, so what would is written differently: `.` as `--`, a hyphen
before `-`, `_` or `.` as `-_`, and a queue whose own name ends with `-dead` or `-jobs` has `-jobs` after it. For the
transport, and for operators who write IAM policies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from queueport.errors import ConfigurationError

__all__ = ["Names"]

LONGEST = 80
"""Characters of a queue's name, `.fifo` included. "Amazon SQS standard queue quotas", Queue name."""
DEAD = "-dead"
JOBS = "-jobs"
FIFO = ".fifo"


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one namespace's queues. Its methods raise ConfigurationError where SQS takes no name so long."""

    prefix: str
    namespace: str
    fifo: bool = False

    def work(self, queue: str) -> str:
        """What carries the jobs of a queue."""
        name = _plain(queue)
        return self._whole(queue, name + JOBS if name.endswith((DEAD, JOBS)) else name)

    def dead(self, queue: str) -> str:
        """What keeps its dead letters."""
        return self._whole(queue, _plain(queue) + DEAD)

    def _whole(self, queue: str, name: str) -> str:
        whole = f"{self.prefix}{self.namespace}-{name}{FIFO if self.fifo else ''}"
        if len(whole) > LONGEST:
            raise ConfigurationError(
                f"the queue {queue!r} would be {whole!r} in SQS, and a name there has at most {LONGEST} characters: "
                "shorten the queue's name, namespace= or prefix="
            )
        return whole


def _plain(queue: str) -> str:
    """The name without dots; another one for each queue, as `-` is followed by `-`, by `_`, or stands for itself."""
    return re.sub(r"-(?=[-_.])", "-_", queue).replace(".", "--")
