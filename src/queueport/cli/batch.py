"""`queueport batch`: show, retry and cancel batches of jobs. For operators."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from queueport.cli import output
from queueport.cli.bulk import CANCEL, RETRY, Flags, Rate, change_many
from queueport.cli.job_view import job_table
from queueport.cli.options import DryRun, Json, Watch, Yes
from queueport.cli.watching import show
from queueport.engine.bulk import cancelling_batch, retrying_batch
from queueport.queue import JobQueue
from queueport.queue.batch import Batch, BatchProgress
from queueport.status import JobState, JobStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

BatchId = Annotated[
    str, typer.Argument(metavar="ID", help="The batch's id, which is not shortened.", show_default=False)
]


class Reading(NamedTuple):
    """A batch as it is now."""

    batch: Batch
    progress: BatchProgress
    follow_ups: list[JobStatus]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        follow_ups = [job.as_dict() for job in self.follow_ups]
        return {"id": self.batch.id, "progress": self.progress.as_dict(), "follow_ups": follow_ups}


def show_batch(queue: JobQueue, *, batch_id: BatchId, watch: Watch = None, as_json: Json = False) -> None:
    """Show the number of jobs of a batch by state, and the jobs that follow it.

    `queueport jobs --batch ID` lists the jobs of the batch.
    """
    batch = queue.get_batch(batch_id)
    show(
        lambda: Reading(batch, batch.progress(), batch.follow_ups()),
        Reading.as_dict,
        _parts,
        as_json=as_json,
        watch=watch,
    )


def _parts(reading: Reading) -> "Sequence[RenderableType]":
    counts = reading.progress.as_dict()
    ended = "yes" if counts.pop("ended") else "no"
    rows = [("batch", reading.batch.id), ("ended", ended), *((name, str(count)) for name, count in counts.items())]
    follow_ups = ("", job_table(reading.follow_ups)) if reading.follow_ups else ()
    return output.table(("", ""), rows), *follow_ups


def retry_batch(
    queue: JobQueue,
    *,
    batch_id: BatchId,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    as_json: Json = False,
) -> None:
    """Retry every dead job of a batch."""
    batch = queue.get_batch(batch_id)
    change_many(retrying_batch(queue.operations, batch.id), RETRY, Flags(dry_run, yes, rate, as_json))


def cancel_batch(
    queue: JobQueue,
    *,
    batch_id: BatchId,
    interrupt: Annotated[
        bool, typer.Option("--interrupt/--no-interrupt", help="Interrupt the code of running jobs.")
    ] = True,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    as_json: Json = False,
) -> None:
    """Cancel the jobs that follow a batch, if they wait, and every job of the batch that has not ended.

    Running jobs are asked to stop. Only the jobs of the batch are counted.
    """
    batch = queue.get_batch(batch_id)
    change = cancelling_batch(queue.operations, batch.id, interrupt=interrupt)
    waiting = sum(job.state is JobState.SCHEDULED and job.waits_for > 0 for job in batch.follow_ups())
    besides = f" and {waiting} that {'follows' if waiting == 1 else 'follow'} the batch" if waiting else ""
    change_many(change, CANCEL, Flags(dry_run, yes, rate, as_json), besides)
