"""Makes a new job like an existing one, with the same or other arguments. For `JobQueue.replay`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from queueport.errors import InvalidJob
from queueport.job import Job, Links, Options, is_own_tag, new_id
from queueport.retry import Retry
from queueport.spi.record import REPLAY_OF, Record
from queueport.spi.store import JobStore
from queueport.status import JobState
from queueport.tasks import registry

__all__ = ["replayed", "with_result"]

OPTIONS = ("timeout", "crash_limit", "keep_result")
"""The options of the record that a replay has too, besides the retry policy and `unique_for`."""
OWN_HEADERS = "queueport-"
"""Headers that begin with this tell how queueport made a job, such as the tick of its schedule, so a replay does not
get them."""
TRACE_HEADERS = ("traceparent", "tracestate")
"""The trace context of the producer. The producer of a replay is another one."""


def with_result(record: Record, store: JobStore) -> Record:
    """The record with all arguments of its job: with `pass_result`, the first one is the result of the job before it.

    Calls the store only for such a job. Raises InvalidJob if the job before it has no result, and BackendUnavailable.
    """
    links = record.links
    if links is None or not links.pass_result or links.after is None:
        return record
    from queueport.job.arguments import Signature, decode_json, decode_plain  # imported here, because pydantic is slow

    parent = store.get([links.after])[0]
    if parent is None or parent.state is not JobState.SUCCEEDED:
        state = "was deleted" if parent is None else f"is {parent.state}"
        raise InvalidJob(
            f"job {record.id} cannot be replayed with its arguments, because the first one is the result of job "
            f"{links.after}, which {state}: pass all positional arguments as args"
        )
    args, kwargs = decode_plain(record.payload)
    result = decode_json(b"null" if parent.result is None else parent.result, f"the result of job {parent.id}")
    payload = Signature(record.task, None).encode_plain([result, *args], kwargs)
    return replace(record, payload=payload, links=replace(links, pass_result=False))


def replayed(
    record: Record, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, job_id: str | None
) -> Job[Any]:
    """Make a new job like that of the record. `JobQueue.replay` describes the arguments. Does no I/O.

    The job follows no other one, but still knows the batch that the existing job has followed.

    Raises InvalidJob, and ConfigurationError if an annotation of the task cannot be resolved.
    """
    own = {name: record.options[name] for name in OPTIONS if name in record.options}
    if record.key is not None and "unique_for" in record.options:  # a later job may have replaced the one with the key
        own["unique_for"] = record.options["unique_for"]
    retry = record.options.get("retry")
    headers = {
        name: text
        for name, text in record.headers.items()
        if not name.startswith(OWN_HEADERS) and name not in TRACE_HEADERS
    }
    options = Options(
        **own,
        retry=None if retry is None else Retry.from_dict(retry),
        priority=record.priority or None,
        group=record.group,
        key=record.key,
        tags=tuple([tag for tag in record.tags if not is_own_tag(tag)]) or None,
    )
    after_batch = None if record.links is None else record.links.after_batch
    payload = _payload(record, args, kwargs)
    return Job(
        id=new_id() if job_id is None else job_id,
        task=record.task,
        payload=payload,
        queue=record.queue,
        expires=None if record.expires_at is None else round(record.expires_at - record.enqueued_at, 6),
        headers={**headers, REPLAY_OF: record.id},
        options=options,
        links=None if after_batch is None else Links(after_batch=after_batch),
        limit_key=_limit_key(record, payload),
        task_ref=registry.get(record.task),
    )


def _limit_key(record: Record, payload: bytes) -> str | None:
    """The `limit_key` for this payload: that of the record, unless other arguments are given and the task is known."""
    task = registry.get(record.task)
    if task is None or payload == record.payload:
        return record.limit_key
    return task.limit_key(*task.signature.decode(payload))


def _payload(record: Record, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> bytes:
    """The payload with these arguments in place of those of the record. Raises InvalidJob."""
    from queueport.job.arguments import Signature, decode_plain  # imported here, because pydantic is slow to import

    if args is not None and not isinstance(args, list | tuple):
        raise InvalidJob(f"args must be a list or a tuple of the positional arguments, not {type(args).__name__}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidJob(f"kwargs must be a mapping of the names of arguments to values, not {type(kwargs).__name__}")
    task = registry.get(record.task)
    signature = Signature(record.task, None) if task is None else task.signature
    try:
        if args is None and kwargs is None:
            signature.decode(record.payload)
            return record.payload
        if args is None or kwargs is None:
            kept_args, kept_kwargs = decode_plain(record.payload)
            args, kwargs = kept_args if args is None else args, kept_kwargs if kwargs is None else kwargs
        return signature.encode_plain(args, kwargs)
    except InvalidJob as error:
        raise InvalidJob(f"job {record.id} cannot be replayed with these arguments: {error}") from error
