"""`run_task`, which runs the code of one task for a test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from queueport import Abort, around_job, current_job, get_queue, hooks, task
from queueport.context import CurrentJob
from queueport.errors import ConfigurationError, InvalidJob, JobFailed
from queueport.testing import FakeQueue, inline, run_task


@task(name="run.resize")
def resize(picture: int, *, width: int = 100) -> int:
    job = current_job()
    for percent in (10, 50, 90, 100):
        job.progress(percent, total=100)
    logging.getLogger("app").info("resized %d for %s", picture, job.headers.get("user"))
    if job.attempt > 3:
        raise Abort("too often")
    assert isinstance(get_queue(), FakeQueue)
    assert job.status().state == "running"
    return picture * width


@task(name="run.async")
async def fetch(number: int) -> int:
    if number < 0:
        raise KeyError(number)
    return number


@task(name="run.unencodable")
def unencodable() -> Any:
    return object()


def test_it_returns_result_progress_and_log() -> None:
    run = run_task(resize, 3, kwargs={"width": 2}, attempt=3, headers={"user": "ann"})
    assert (run.result, run.error) == (6, None)
    assert [report.current for report in run.progress] == [10, 50, 90, 100]
    assert [record.getMessage() for record in run.log] == ["resized 3 for ann"]


def test_it_returns_the_exception_of_the_task() -> None:
    run = run_task(resize, 3, attempt=4)
    assert run.result is None
    assert isinstance(run.error, Abort)
    assert len(run.progress) == 4


def test_it_runs_coroutines() -> None:
    assert run_task(fetch, 5).result == 5
    assert isinstance(run_task(fetch, -5).error, KeyError)


def test_a_result_that_cannot_be_encoded_is_an_error() -> None:
    assert isinstance(run_task(unencodable).error, JobFailed)


def test_wrong_arguments_are_refused_in_one_sentence() -> None:
    with pytest.raises(InvalidJob, match="argument 'picture'"):
        run_task(resize, "x")
    with pytest.raises(TypeError, match="run_task takes a task, not <function"):
        run_task(test_it_runs_coroutines)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="attempts count from 1: 0 is too small"):
        run_task(resize, 1, attempt=0)


class HookFailed(Exception):
    """Raised by the hook of these tests."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Registers an around_job hook that raises, or suppresses the error of the task, in this test."""

    def register(does: str) -> None:
        monkeypatch.setattr(hooks, "_around", [])

        @around_job
        def outer(_: CurrentJob) -> Iterator[None]:
            if does == "raises on entry":
                raise HookFailed
            with suppress(*([KeyError] if does == "suppresses" else [])):
                yield
            if does == "raises on exit":
                raise HookFailed

        @around_job
        @contextmanager
        def inner(_: CurrentJob) -> Iterator[None]:
            yield

    return register


@pytest.mark.parametrize("number", [5, -5])
@pytest.mark.parametrize("does", ["raises on entry", "raises on exit"])
def test_the_exception_of_a_hook_is_the_error_of_the_attempt(
    hook: Callable[[str], None], does: str, number: int
) -> None:
    hook(does)
    expected = KeyError if number < 0 and does == "raises on exit" else HookFailed
    assert isinstance(run_task(fetch, number).error, expected)
    with inline() as queue:
        with pytest.raises(expected):
            queue.enqueue(fetch, number)
        (status,) = queue.enqueued
        assert status.error is not None
        assert status.error.type.endswith(expected.__name__)


def test_a_hook_that_suppresses_the_error_of_a_task_is_told_not_to(hook: Callable[[str], None]) -> None:
    hook("suppresses")
    run = run_task(fetch, -5)
    assert isinstance(run.error, ConfigurationError)
    assert str(run.error) == "an around_job hook has suppressed an error: let the hook raise it again"
    assert isinstance(run.error.__context__, KeyError)
    assert run_task(fetch, 5).result == 5
