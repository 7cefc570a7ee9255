"""Measure every file of a folder by jobs, and see jobs fail, retry, die, come back and be counted. Read top to bottom.

`python -m quickstart [FOLDER]` in the folder `examples`, or `nox -s quickstart -- FOLDER` anywhere in the repository.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from queueport import Job, JobHandle, JobQueue, JobState, get_queue

from quickstart import report, worker
from quickstart.files import find, printable
from quickstart.report import say, step
from quickstart.tasks import Measured, measure

REPOSITORY = Path(__file__).parents[2]
BUSY_EVERY = 10
POLL = 0.1


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 where the worker could not work, or 2 for what is not a folder."""
    if len(arguments) > 1:
        return refuse("give one folder, or none for this repository's own files")
    folder = Path(arguments[0]).absolute() if arguments else REPOSITORY
    try:
        if not folder.is_dir():
            return refuse(f"{printable(str(folder))} is not a folder")
        next(folder.iterdir(), None)
    except OSError as error:
        return refuse(f"{printable(str(folder))} cannot be read: {error.strerror}")
    with TemporaryDirectory(prefix="queueport-") as place:
        try:
            quickstart(folder, Path(place))
        except worker.WorkerEndedError as error:
            say(str(error), style="red")
            return 1
    return 0


def quickstart(folder: Path, place: Path) -> None:
    """All steps, with the database and the files of its own in `place`."""
    say(f"queueport quickstart over {printable(str(folder))}", style="bold")
    found = find(folder)
    report.found(found)
    url = f"sqlite:///{quote(str(place / 'jobs.db'))}"
    with get_queue(url) as queue:
        step(1, f"Enqueue one job a file, into {url}")
        handles = enqueue(queue, found.files)
        absent, damaged = own_files(place)
        extra = queue.enqueue_many([job(absent), job(damaged)])
        paths = dict(zip([handle.id for handle in (*handles, *extra)], [*found.files, absent, damaged], strict=True))
        names = {id: printable(str(path.relative_to(place if path.parent == place else folder))) for id, path in paths.items()}

        step(2, "Run a worker process: " + " ".join(worker.command(url)))
        with worker.running(url, place / "worker.log") as process:
            wait(queue, process, len(paths))
            ...


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
