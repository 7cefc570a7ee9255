"""`python -m tests.chaos.table [--write]`: a long run of `queueport chaos` on each backend, as a table.

`nox -s chaos` runs this. Environment variables choose what is run: CHAOS_JOBS and CHAOS_FAULTS (numbers for each
backend), CHAOS_SEED, CHAOS_LEASE (seconds), and CHAOS_BACKENDS, a list of names in BACKENDS, separated by commas. With
`--write`, the table replaces the one in docs/reliability.md. The exit code is 1 if there is a breach.

Those on SQS are run only if CHAOS_BACKENDS names them: the emulators are so slow that leases lapse on a busy machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from queueport.testing.chaos.servers import NAMES
from queueport.testing.redis_store import Redis
from tests.servers.aws import Moto

FRAMEWORKS = ("rq", "celery", "dramatiq")
"""The backends that have workers of their own."""
PAGE = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- table of the long runs -->\n", "<!-- end of the table -->\n"
HEAD = (
    "| backend | jobs | faults | `--seed` | accepted | repeated runs | breaches | loss noticed | next start |"
    " minutes |\n|---|---|---|---|---|---|---|---|---|---|\n"
)
BACKENDS: Mapping[str, Sequence[str]] = {
    **{name: [name] for name in NAMES},
    **{name: [name] for name in ("sqs+dynamodb", "sqs+redis", "sqs-fifo+redis")},
    **{f"{name} (native)": [name, "--native"] for name in NAMES if name.partition("+")[0] in FRAMEWORKS},
}
"""The arguments of the command for each row of the table."""


def main() -> None:
    """Run the backends, print the table, and write it if told so."""
    given = os.environ.get("CHAOS_BACKENDS")
    names = [name for name in BACKENDS if not name.startswith("sqs")] if not given else given.split(",")
    if unknown := [name for name in names if name not in BACKENDS]:
        sys.exit(f"CHAOS_BACKENDS: {unknown[0]!r} is not one of {', '.join(BACKENDS)}")
    seed = os.environ.get("CHAOS_SEED") or str(time.time_ns())
    found = {name: run(BACKENDS[name], seed) for name in names}
    table = HEAD + "".join(row(name, one) for name, one in found.items())
    sys.stdout.write(table)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2])
    sys.exit(any(one is None or not one["ok"] for one in found.values()))


def run(words: Sequence[str], seed: str) -> dict[str, Any] | None:
    """The document of a run; None if the command has failed. Its progress and its errors go to standard error."""
    target, *options = words
    options += ["--seed", seed, "--jobs", os.environ.get("CHAOS_JOBS", "20000")]
    options += ["--faults", os.environ.get("CHAOS_FAULTS", "50"), "--lease", os.environ.get("CHAOS_LEASE", "10")]
    command = [
        sys.executable,
        "-m",
        "queueport",
        "chaos",
        target if target in NAMES else sqs(target),
        "--json",
        *options,
    ]
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}  # the emulators accept any
    environment = {**os.environ, **credentials}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    found: dict[str, Any] | None = json.loads(ended.stdout) if ended.stdout else None
    if found is not None:
        for sentence in [*found["unexpected"], *(each for several in found["breaches"].values() for each in several)]:
            sys.stderr.write(f"{target}: {sentence}\n")
    return found


def sqs(name: str) -> str:
    """The URL of servers of this backend that this process has started: an emulator of SQS, and the store."""
    queues, kind = Moto(), name.partition("+")[0]
    store = f"dynamodb://us-east-1/jobs?endpoint={Moto().url}" if name.endswith("+dynamodb") else Redis().url
    options = {"endpoint": queues.url, "create": "true", "wait": "1", "store": store}
    return f"sqs://us-east-1?{urlencode({**options, 'fifo': 'true'} if kind == 'sqs-fifo' else options)}"


def row(name: str, found: dict[str, Any] | None) -> str:
    """The row of a backend."""
    return f"| {name} | {' | '.join(map(str, cells(found)))} |\n"


def cells(found: dict[str, Any] | None) -> Iterator[object]:
    if found is None:
        yield "the run was ended by an error"
        return
    yield from (f"{found['jobs']:,}", sum(found["faults"].values()), f"`{found['seed']}`", f"{found['accepted']:,}")
    yield found["repeated"]
    breaches = {kind: len(sentences) for kind, sentences in found["breaches"].items() if sentences}
    yield ", ".join(f"{number} {kind}" for kind, number in breaches.items()) or 0
    for longest in (found["noticed"], found["recovery"]):
        kind, seconds = max(longest.items(), key=lambda pair: pair[1], default=("none", 0.0))
        yield f"{seconds:.1f} s (`{kind}`)"
    yield f"{found['seconds'] / 60:.0f}"


if __name__ == "__main__":
    main()
