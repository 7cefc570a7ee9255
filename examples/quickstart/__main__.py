"""Measure each file of a folder in a job. Some jobs fail and are retried, some are dead, and one is retried by hand.

Run `python -m quickstart [FOLDER]` in the folder `examples`, or `nox -s quickstart -- FOLDER` in the repository.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from queueport import JobHandle, JobQueue, JobState, get_queue
from quickstart import report, worker
from quickstart.files import find, printable
from quickstart.report import say, step
from quickstart.tasks import Measured, measure

REPOSITORY = Path(__file__).parents[2]
BUSY_EVERY = 10
"""For one file in this number of files the first attempt fails, as if another program used the file."""

Jobs = dict[Path, JobHandle[Measured]]


def quickstart(folder: Path, place: Path) -> None:
    """Run all steps. The database and two files of the quickstart are in `place`."""
    found = find(folder)
    url = f"sqlite:///{quote(str(place / 'jobs.db'))}"
    with get_queue(url) as queue:
        step(1, f"Enqueue one job for each file, on {url}")
        report.found(found)
        jobs = enqueue(queue, found.files)
        damaged, absent = place / "damaged.txt", place / "absent.txt"
        damaged.write_bytes(b"half a line, and then\0\0\0\0")
        own = enqueue(queue, [absent, damaged], busy_every=None)
        say(f"   for every {BUSY_EVERY}th file the first attempt fails, as if it were in use; the next is 0.5 s later")
        say("   and 2 files of the quickstart: damaged.txt is binary, absent.txt does not exist")
        names = {handle.id: str(path.relative_to(folder)) for path, handle in jobs.items()}
        names |= {handle.id: path.name for path, handle in own.items()}

        step(2, f"Run them: {' '.join(worker.command(url))}")
        with worker.running(url, place / "worker.log") as process:
            wait(queue, process, len(names))
            for path, handle in list(jobs.items())[:1]:  # show the first file, if there is one: its first attempt fails
                report.attempts(path.name, handle.status())

            step(3, "List the dead letters: a file that is not text has 1 attempt, other errors have 3")
            report.dead_letters(queue.dead_letters.list(limit=report.ROWS), names, queue.dead_letters.count())

            step(4, "Repair damaged.txt and retry its job")
            damaged.write_text("a line of five words\n")
            queue.dead_letters.retry(own[damaged].id)
            wait(queue, process, len(names))
            report.attempts(damaged.name, own[damaged].status())

            step(5, f"Show the results, equal to those of `wc -l -w -c` and `sha256sum`, for {printable(str(folder))}")
            report.results(measured(jobs), folder)
            report.stats(queue.stats())


def enqueue(queue: JobQueue, paths: Sequence[Path], busy_every: int | None = BUSY_EVERY) -> Jobs:
    """Enqueue a job for each file, all in one call."""
    busy = set(paths[::busy_every]) if busy_every is not None else set()
    handles = queue.enqueue_many(measure.job(path.as_uri(), busy=path in busy) for path in paths)
    return dict(zip(paths, handles, strict=True))


def wait(queue: JobQueue, process: worker.WorkerProcess, jobs: int) -> None:
    """Show progress until that number of jobs is succeeded or dead. Raises WorkerEndedError."""
    with report.progress() as progress:
        bar = progress.add_task("files", total=jobs, detail="")
        while not progress.finished:
            process.check()
            stats, running = queue.stats(), queue.jobs(JobState.RUNNING, limit=1)
            ended = stats.totals.succeeded + stats.totals.dead
            progress.update(bar, completed=ended, detail=report.detail(stats.totals, running))
            time.sleep(0.05)


def measured(jobs: Jobs) -> dict[Path, Measured]:
    """The results of the jobs that succeeded."""
    succeeded = {path: job for path, job in jobs.items() if job.status().state is JobState.SUCCEEDED}
    return {path: job.result(timeout=0) for path, job in succeeded.items()}


def main() -> int:
    """Run the quickstart. Exit codes: 1 if the worker ended early, 2 for a wrong folder, 130 after Ctrl-C, else 0."""
    parser = ArgumentParser("python -m quickstart", description="Measure each file of a folder in a job.")
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY, help="by default, this repository")
    folder: Path = parser.parse_args().folder.absolute()
    try:
        next(folder.iterdir(), None)
    except (OSError, ValueError) as error:
        print(f"cannot read the folder: {error}", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="queueport-") as place:
        try:
            quickstart(folder, Path(place))
        except worker.WorkerEndedError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
