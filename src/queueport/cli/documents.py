"""The JSON documents that commands print with `--json`, and their JSON schemas. For scripts, the docs and the tests.

`docs/generate.py` writes the schemas to `docs/json`. A new command with `--json` is added to DOCUMENTS. Within a major
version, properties may be added to a document, but none is removed or gets another type.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from queueport.job.recurrence import Schedule
from queueport.queue.batch import BatchProgress
from queueport.stats import Health, HistoryPoint, QueueStats, Stats, WorkerStats
from queueport.status import CancelOutcome, JobStatus
from queueport.testing.chaos.document import ChaosRun

__all__ = ["DOCUMENTS", "schemas"]


class Enqueued(TypedDict):
    """The job that a command has enqueued."""

    id: str
    """The job's id."""
    created: bool
    """False if another job holds the key, so that no job was added; `id` is then the id of that other job."""
    replaced: bool
    """True if that other job took over the arguments and the run time of the new job (`--key-mode replace`)."""


class Replayed(TypedDict):
    """The job that a command has made from another job."""

    id: str
    """The new job's id."""
    replay_of: str
    """The whole id of the other job."""


class JobId(TypedDict):
    """The job that a command has changed."""

    id: str
    """The job's whole id."""


class Cancelled(TypedDict):
    """What a cancel request has done to a job."""

    id: str
    """The job's whole id."""
    outcome: CancelOutcome


class Count(TypedDict):
    """How many jobs a command has changed."""

    count: int


class WouldChange(Count):
    """How many jobs a command with `--dry-run` would change."""

    ids: list[str]
    """The ids of the first of these jobs."""


class BatchShown(TypedDict):
    """A batch of jobs."""

    id: str
    """The batch's id."""
    progress: BatchProgress
    """The number of its jobs by state."""
    follow_ups: list[JobStatus]
    """The jobs that follow the batch: its `then` and `on_dead`."""


class QueuePaused(TypedDict):
    """A queue that a command has paused."""

    queue: str
    paused: Literal[True]
    reason: str | None


class QueueResumed(TypedDict):
    """A queue that a command has resumed."""

    queue: str
    resumed: bool
    """False if the queue was not paused."""


class QueueLimited(TypedDict):
    """The limit of a queue. It has none if all values are null."""

    queue: str
    concurrency: int | None
    """At most so many jobs run at a time."""
    rate: str | None
    """At most so many jobs start on average, such as `100/m`."""
    burst: int | None
    """At most so many jobs start at once; null: the starts of one second."""


class ScheduleRemoved(TypedDict):
    """The schedule that a command has removed."""

    name: str


class ScheduleImported(TypedDict):
    """A schedule that an existing app declares."""

    name: str
    task: str
    """Empty if the schedule cannot be imported."""
    when: str
    """Empty if the schedule cannot be imported."""
    outcome: str
    """`new`, `changed`, `same`, or a sentence that begins with `cannot be imported`."""


class WorkersAlive(TypedDict):
    """The live workers that `check --worker` or `check --this-host` has found."""

    ok: bool
    """True if there is such a worker."""
    workers: list[str]
    """The names of the workers."""


class QueuesSetUp(TypedDict):
    """The queues that a command has set up."""

    queues: list[str]


class Option(TypedDict):
    """An option of a URL."""

    default: str | float | bool | None
    required: bool
    description: str | None


class StoreInstalled(TypedDict):
    """An installed job store."""

    package: str | None
    """The name and version of the Python package."""
    options: dict[str, Option]
    """The options of the store's URLs, by name."""
    problem: str | None
    """Why the package cannot be imported; null if it can be."""


class BackendInstalled(StoreInstalled, total=False):
    """An installed backend."""

    capabilities: list[str]
    """The backend's optional features; missing if the package cannot be imported."""


class Installed(TypedDict):
    """The installed backends and stores, by the scheme of their URLs."""

    backends: dict[str, BackendInstalled]
    stores: dict[str, StoreInstalled]
    options: dict[str, Option]
    """The options that every backend has."""


class ContractTest(TypedDict):
    """The outcome of a test of the contract suite."""

    line: str
    """The id of the first contract line that the test checks; empty if the test's name has no such id."""
    test: str
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float
    reason: str | None
    """The reason for the skip, or the text of the failure; null if the test passed."""
    sentence: str
    """What every backend must do."""


class ContractRun(TypedDict):
    """The outcomes of a run of the contract suite."""

    url: str
    complete: bool
    """False if the run was restricted with -k or --quick."""
    passed: int
    failed: int
    skipped: int
    lines: list[ContractTest]


@dataclass(frozen=True, slots=True)
class Document:
    """A kind of document: the name of its schema, its type, and the commands that print it."""

    name: str
    type: Any
    commands: tuple[str, ...]


DOCUMENTS: tuple[Document, ...] = (
    Document("enqueued", Enqueued, ("enqueue", "schedules run")),
    Document("replayed", Replayed, ("replay",)),
    Document("job", JobStatus, ("status", "dead show")),
    Document("jobs", list[JobStatus], ("jobs", "dead list")),
    Document("job-id", JobId, ("retry",)),
    Document("changed", JobId | Count | WouldChange, ("dead retry", "dead discard")),
    Document("cancelled", Cancelled | Count | WouldChange, ("cancel",)),
    Document("counted", Count | WouldChange, ("purge", "dead retry-all", "dead purge", "batch retry", "batch cancel")),
    Document("batch", BatchShown, ("batch show",)),
    Document("queue-paused", QueuePaused, ("pause",)),
    Document("queue-resumed", QueueResumed, ("resume",)),
    Document("queue-limit", QueueLimited, ("limit",)),
    Document("queue-limits", list[QueueLimited], ("limits",)),
    Document("schedule", Schedule, ("schedules show", "schedules add", "schedules pause", "schedules resume")),
    Document("schedules", list[Schedule], ("schedules list",)),
    Document("schedule-removed", ScheduleRemoved, ("schedules remove",)),
    Document("schedules-imported", list[ScheduleImported], ("schedules import",)),
    Document("stats", Stats, ("stats",)),
    Document("history", list[HistoryPoint], ("history",)),
    Document("workers", list[WorkerStats], ("workers",)),
    Document("check", Health | WorkersAlive, ("check",)),
    Document("queues-set-up", QueuesSetUp, ("setup",)),
    Document("backends", Installed, ("backends",)),
    Document("contract", ContractRun, ("contract",)),
    Document("chaos", ChaosRun, ("chaos",)),
)

COMPUTED: Mapping[type[Any], tuple[str, ...]] = {
    JobStatus: ("finished",),
    HistoryPoint: ("throughput",),
    QueueStats: ("ready",),
    BatchProgress: ("total", "ended"),
}
"""The properties that `as_dict` adds to the fields of a class."""


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema of each document, by the name of the document."""
    found = {}
    for document in DOCUMENTS:
        schema = TypeAdapter(document.type).json_schema(mode="serialization", schema_generator=_Generator)
        parts = {**schema.pop("$defs", {}), "": schema}
        for kind in _kinds(document.type):
            _describe(parts.get(kind.__name__, schema), kind)
        parts.pop("")
        head = {"$schema": GenerateJsonSchema.schema_dialect, "title": document.name}
        found[document.name] = {**head, **schema, "title": document.name, **({"$defs": parts} if parts else {})}
    return found


class _Generator(GenerateJsonSchema):
    """Makes no titles, because they only repeat the names of the properties."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _kinds(annotation: Any) -> Iterator[type[Any]]:
    """The classes in an annotation, and in the annotations of their fields."""
    if isinstance(annotation, type) and annotation.__module__.startswith("queueport."):
        yield annotation
        for inner in (*get_type_hints(annotation).values(), *getattr(annotation, "__orig_bases__", ())):
            yield from _kinds(inner)
    for argument in getattr(annotation, "__args__", ()):
        yield from _kinds(argument)


def _describe(schema: dict[str, Any], kind: type[Any]) -> None:
    """Add to the schema of this class the docstrings of its fields, and the properties that `as_dict` adds.

    Every field is required, because `as_dict` writes all fields, also those with a default.
    """
    if "description" in schema:
        schema["description"] = _plain(schema["description"])
    properties = schema.get("properties", {})
    for name, text in _docstrings(kind).items():
        if name in properties:
            properties[name]["description"] = text
    for one in properties.values():
        one.pop("default", None)
        options = one.get("anyOf", [])
        options[:] = [option for option in options if option.get("format") != "duration"]
    if dataclasses.is_dataclass(kind):
        for computed in COMPUTED.get(kind, ()):
            function = getattr(kind, computed).fget
            made = TypeAdapter(inspect.get_annotations(function, eval_str=True)["return"]).json_schema()
            properties[computed] = {**made, "description": _plain(function.__doc__)}
        schema["required"] = list(properties)


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """The docstrings of the fields of a class and its bases, by the field's name."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not one.__module__.startswith("queueport."):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        body = node.body if isinstance(node, ast.ClassDef) else []
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = _plain(str(ast.literal_eval(text.value)))
    return found


def _plain(text: str) -> str:
    """The text on one line, in the terms of JSON."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))
