"""Natural mistakes in calls: one sentence of queueport says what to pass, and no raw error of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queueport import AsyncJobQueue, Capability, get_queue, task
from queueport.errors import ConfigurationError, InvalidJob, Unsupported
from queueport.web.dashboard import dashboard_app


@task(name="mistakes.noop")
def noop() -> None:
    pass


wrong: Any = {"path": Path("jobs.db"), "number": 5, "url": "sqlite:///jobs.db"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda _: get_queue(wrong["path"]),
            "get_queue takes a URL as text, such as 'sqlite:///jobs.db', not PosixPath",
        ),
        (lambda _: get_queue(wrong["number"]), "get_queue takes a URL as text, such as 'sqlite:///jobs.db', not int"),
        (lambda _: get_queue("memory://", require=wrong["number"]), "require=5 is not a set of capabilities"),
        (
            lambda queue: queue.worker(tasks=[print]),
            "which is not a task: pass functions that are decorated with @task",
        ),
        (lambda queue: queue.worker(tasks=["more.add"]), "tasks= contains 'more.add', which is not a task"),
        (
            lambda queue: queue.worker(tasks=noop),
            "<Task 'mistakes.noop'> is not a list of tasks: pass for example tasks=",
        ),
        (
            lambda queue: queue.worker(tasks="more.add"),
            "tasks='more.add' is not a list of tasks: pass for example tasks=",
        ),
        (lambda _: AsyncJobQueue(wrong["url"]), "AsyncJobQueue takes a JobQueue, not str"),
        (lambda _: dashboard_app(wrong["url"]), "the dashboard shows queues, not str: pass for example get_queue(URL)"),
        (lambda _: dashboard_app([wrong["path"]]), "the dashboard shows queues, not PosixPath"),
        (lambda _: dashboard_app({"jobs": wrong["number"]}), "the dashboard shows queues, not int"),
    ],
)
def test_a_wrong_argument_is_named_in_one_sentence(call: Callable[[Any], object], says: str) -> None:
    with get_queue("memory://") as queue, pytest.raises(ConfigurationError) as caught:
        call(queue)
    assert says in str(caught.value)


def test_a_task_is_not_a_dead_letter() -> None:
    given: Any = noop
    with (
        get_queue("memory://") as queue,
        pytest.raises(InvalidJob, match=r"dead letters are jobs, not a task: pass for example task\.job\(1, 2\)"),
    ):
        queue.dead_letters.add(given, "no")


@pytest.mark.parametrize("missing", [Capability.GROUPS, "groups"], ids=["member", "text"])
def test_one_capability_can_be_required(missing: Any) -> None:
    with pytest.raises(Unsupported, match="GROUPS"):
        get_queue("memory://", require=missing)
    get_queue("memory://", require=Capability.PRIORITY).close()
