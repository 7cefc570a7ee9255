"""Tasks, their names and options, and the jobs made from them. For authors of `tasks.py` and `job.py`."""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib
import inspect
import math
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID

import pytest

from queueport import get_queue
from queueport.context import default_queue
from queueport.errors import ConfigurationError, InvalidJob, UnknownTask
from queueport.job import Job, Options, new_id
from queueport.retry import Retry
from queueport.tasks import registry, task


@pytest.fixture(autouse=True)
def names_before() -> Iterator[list[str]]:
    """The names that other modules had registered. Tasks that the test declares are removed after the test."""
    names = registry.names()
    with registry.isolated():
        yield names


def send(user_id: int, template: str = "plain") -> str:
    """Send a letter."""
    return f"{user_id} {template}"


async def fetch(url: str) -> bytes:
    return url.encode()


class Mail:
    @task(name="mail.inner")
    @staticmethod
    def inner(size: int) -> int:
        return size

    @staticmethod
    @task(name="mail.outer")
    def outer(size: int) -> int:
        return size

    def method(self) -> None: ...

    @classmethod
    def by_class(cls) -> None: ...

    @staticmethod
    def static(size: int) -> int:
        return size

    @staticmethod
    def like_a_method(self: int) -> int:  # noqa: PLW0211  # pyright: ignore[reportSelfClsParameterName]
        return self


# -- declaring --------------------------------------------------------------------------------------------------------


def test_a_task_has_the_name_of_its_function_and_is_registered() -> None:
    declared = task(send)
    assert declared.name == f"{__name__}.send"
    assert registry.get(declared.name) is declared
    assert (declared.__name__, declared.__doc__, declared.__wrapped__) == ("send", "Send a letter.", send)
    assert inspect.signature(declared) == inspect.signature(send)
    assert repr(declared) == f"<Task '{__name__}.send'>"


def test_a_task_is_called_like_its_function() -> None:
    assert task(send)(1, template="welcome") == "1 welcome"
    assert not task(send).is_async
    assert task(fetch).is_async
    assert asyncio.run(task(fetch)("a")) == b"a"


def test_a_staticmethod_can_be_a_task_in_either_order_of_decorators() -> None:
    assert [Mail.inner.name, Mail.outer.name] == ["mail.inner", "mail.outer"]
    assert [Mail.inner(1), Mail().inner(2), Mail.outer(3), Mail().outer(4)] == [1, 2, 3, 4]
    assert task(staticmethod(send)).name == f"{__name__}.send"
    assert task(Mail.static).name == f"{__name__}.Mail.static"
    assert task(Mail.__dict__["like_a_method"]).name == f"{__name__}.Mail.like_a_method"


def test_a_function_wrapped_by_another_decorator_can_be_a_task() -> None:
    @task(name="doubled")
    @twice
    def half(value: int) -> int:
        return value

    assert half(3) == 6
    with pytest.raises(InvalidJob, match="argument 'value'"):
        half.job("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def twice(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def wrapper(value: int) -> int:
        return 2 * function(value)

    return wrapper


def test_a_task_is_found_by_its_aliases(names_before: list[str]) -> None:
    declared = task(name="mail.send", aliases=("old.send", "older.send"))(send)
    assert registry.names() == sorted([*names_before, "mail.send", "old.send", "older.send"])
    assert registry.get("older.send") is declared
    assert registry.tasks()[-1] is declared
    assert registry.tasks().count(declared) == 1
    assert registry.get("newer.send") is None


def generator() -> Iterator[int]:
    yield 1


async def agenerator() -> AsyncIterator[int]:
    yield 1


def nested() -> Callable[[], None]:
    def inside() -> None: ...

    return inside


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: None, "a function with a name"),
        (nested(), r"inside a function: move it out, or name it with @task\(name="),
        (generator, "it is a generator"),
        (agenerator, "it is a generator"),
        (Mail.method, "it is a method"),
        (Mail().method, "takes a function"),
        (Mail.by_class, "takes a function"),
        (Mail.__dict__["by_class"], "takes a function"),
        (Mail, "takes a function"),
        (functools.partial(send, 1), "takes a function"),
        (functools.wraps(functools.partial(send, 1))(lambda: None), "takes a function"),
        (len, "takes a function"),
        ("mail.send", r"to give a name, write @task\(name="),
        (Mail.inner, "takes a function"),
    ],
    ids=[
        "lambda",
        "nested",
        "generator",
        "async generator",
        "method",
        "bound method",
        "class method",
        "class method object",
        "class",
        "partial",
        "wrapped partial",
        "builtin",
        "text",
        "task",
    ],
)
def test_an_object_that_cannot_be_a_task_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        task(wrong)


@pytest.mark.parametrize("name", ["", "two words", "tab\t", "line\n", "\ud800", "x" * 201, "\x00", 7])
def test_an_invalid_name_is_refused(names_before: list[str], name: Any) -> None:
    for declare in (
        lambda: task(name=name)(send),
        lambda: task(aliases=(name,))(send),
        lambda: task.named(name),
    ):
        with pytest.raises(ConfigurationError, match="name must be 1 to 200 printable characters"):
            declare()
    assert registry.names() == names_before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": "two words"}, "task 'mail.send': queue must be"),
        ({"timeout": 0}, "task 'mail.send': timeout must be"),
        ({"retry": 3}, "task 'mail.send': retry must be a Retry"),
        ({"tiemout": 3}, "task 'mail.send': there is no option 'tiemout' here; did you mean 'timeout'"),
        ({"priority": 3}, "task 'mail.send': there is no option 'priority' here"),
        ({"aliases": "old"}, "task 'mail.send': aliases must be a list or tuple"),
    ],
    ids=str,
)
def test_an_invalid_option_is_refused_at_the_declaration(names_before: list[str], options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        task(name="mail.send", **options)(send)
    assert registry.names() == names_before


def test_the_module_of_a_task_is_the_one_whose_import_declares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "library_only": "def work(): ...",
        "uses_library": "import library_only\nfrom queueport import task\nwork = task(library_only.work)",
        "decorators": "from queueport import task\ndef slow(function): return task(timeout=60)(function)",
        "uses_decorator": "from decorators import slow\n@slow\ndef wait(): ...",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    work, wait = importlib.import_module("uses_library").work, importlib.import_module("uses_decorator").wait
    assert (work.name, work.__module__) == ("library_only.work", "uses_library")
    assert (wait.name, wait.__module__) == ("uses_decorator.wait", "uses_decorator")


def test_a_name_taken_by_another_function_is_refused(names_before: list[str]) -> None:
    declared = task(name="mail.send", aliases=("old.send",))(send)
    for name, aliases in [("mail.send", ()), ("old.send", ()), ("new", ("mail.send",)), ("new", ("old.send",))]:
        with pytest.raises(ConfigurationError, match=rf"is taken by {__name__}\.send; give {__name__}\.fetch another"):
            task(name=name, aliases=aliases)(fetch)
    assert registry.names() == sorted([*names_before, "mail.send", "old.send"])
    assert registry.get("mail.send") is declared


def test_a_task_registered_inside_isolated_is_removed_afterwards() -> None:
    first = task(send)
    with registry.isolated():
        task(fetch)
        again = task(send)
        assert registry.get(first.name) is again
    assert registry.get(f"{__name__}.fetch") is None
    assert registry.get(first.name) is first


# -- modules ----------------------------------------------------------------------------------------------------------


def test_a_reloaded_module_replaces_its_tasks(
    names_before: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "from queueport.tasks import task\n@task(aliases=('older',))\ndef f(): return {}\n"
    (tmp_path / "loaded_again.py").write_text(code.format(1))
    module = importlib.import_module("loaded_again")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "loaded_again.py").write_text(code.format(222).replace("older", "oldest"))
    try:
        importlib.reload(module)
    finally:
        del sys.modules["loaded_again"]
    assert registry.names() == sorted(["loaded_again.f", *names_before, "oldest"])
    (reloaded,) = (declared for declared in registry.tasks() if declared.name == "loaded_again.f")
    assert reloaded() == 222


def test_a_notebook_cell_that_runs_again_replaces_its_task() -> None:
    for cell in ("first", "second"):
        names: dict[str, Any] = {"__name__": "notebook", "task": task}
        # Each run of a notebook cell has another file name.
        exec(compile("@task(name='cell')\ndef f(): ...", cell, "exec"), names)
        assert registry.get("cell") is names["f"]


def test_a_worker_made_in_a_python_shell_runs_the_task_as_it_was_last_defined() -> None:
    shell = """
from queueport import get_queue, task
queue = get_queue("memory://")
for text in "one", "two":
    exec(f"@task(name='shell')\\ndef shell():\\n    return '{text}'")
    with queue.worker():
        print(queue.enqueue("shell").result(10))

"""
    done = subprocess.run([sys.executable, "-i"], input=shell, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "one\ntwo\n"


@pytest.mark.parametrize(
    ("name", "instead"),
    [("delay", "enqueue"), ("send", "enqueue"), ("apply_async", "using"), ("send_with_options", "using")],
)
def test_a_method_of_another_library_is_an_error_that_names_the_method_of_this_one(name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=rf"a task has no attribute '{name}': use task\.{instead}"):
        getattr(Mail.inner, name)
    with pytest.raises(AttributeError, match=r"a task has no attribute 'dealy'$"):
        getattr(Mail.inner, "dealy")  # noqa: B009  # a type checker refuses the attribute
    assert not hasattr(Mail.inner, name)


TASK = "from queueport.tasks import registry, task\n@task\ndef f(): ...\n"


@pytest.mark.parametrize(
    ("run", "files", "name"),
    [
        (["-m", "pkg.m"], {"pkg/m.py": TASK}, "pkg.m.f"),
        (["-m", "pkg"], {"pkg/__main__.py": TASK}, "pkg.__main__.f"),
        (["-m", "m"], {"m.py": TASK}, "m.f"),
        (["-m", "pkg.m"], {"pkg/m.py": TASK + "import pkg.m\n"}, "pkg.m.f"),
        (["m.py"], {"m.py": TASK.replace("@task", "@task(name='named')")}, "named"),
        (["m.py"], {"m.py": TASK.replace("@task", "@task(name='named')") + "import m\n"}, "named"),
    ],
    ids=str,
)
def test_a_module_run_as_a_program_names_its_tasks_as_if_it_were_imported(
    run: list[str], files: dict[str, str], name: str, tmp_path: Path
) -> None:
    ran = run_python(run, files, tmp_path)
    assert (ran.stdout.split(), ran.returncode) == ([name], 0), ran.stderr


def test_a_script_must_name_its_tasks(tmp_path: Path) -> None:
    ran = run_python(["m.py"], {"m.py": TASK}, tmp_path)
    assert "ConfigurationError: __main__.f is in a script" in ran.stderr
    assert "@task(name=...)" in ran.stderr


def run_python(run: list[str], files: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    for path, code in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(code + "if __name__ == '__main__': print(*registry.names())\n")
    return subprocess.run([sys.executable, *run], cwd=folder, capture_output=True, text=True, check=False)


def test_a_spawned_process_of_a_module_run_as_a_program_knows_its_tasks(tmp_path: Path) -> None:
    code = """
import multiprocessing
from queueport.tasks import registry, task

@task
def f(x: int) -> int: return x + 1

def child(job_task): print(job_task.name, job_task(1), registry.get(job_task.name) is not None)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=(f.using(delay=1),))
    process.start()
    process.join()
"""
    (tmp_path / "m.py").write_text(code)
    ran = subprocess.run([sys.executable, "-m", "m"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout == "m.f 2 True\n", ran.stderr


def test_a_task_pickled_in_a_module_run_as_a_program_can_be_unpickled_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ran.py").write_text(TASK + "import pickle\nif __name__ == '__main__': print(pickle.dumps(f).hex())\n")
    ran = subprocess.run([sys.executable, "-m", "ran"], cwd=tmp_path, capture_output=True, text=True, check=True)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert pickle.loads(bytes.fromhex(ran.stdout)) is registry.get("ran.f") is sys.modules["ran"].f
    finally:
        del sys.modules["ran"]


def test_a_task_is_pickled_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = task(send)
    assert pickle.loads(pickle.dumps(declared)) is declared
    assert copy.deepcopy(declared) is declared
    with_options = pickle.loads(pickle.dumps(declared.using(delay=5, retry=Retry(retry_on=(OSError,)))))
    assert with_options.function is send
    assert with_options.given == Options(delay=5, retry=Retry(retry_on=(OSError,)))
    elsewhere = pickle.loads(pickle.dumps(task.named("other.resize", queue="images")))
    assert (elsewhere.name, elsewhere.queue, elsewhere.function) == ("other.resize", "images", None)

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pickled.py").write_text(TASK)
    data = pickle.dumps(importlib.import_module("pickled").f)
    registry._tasks.clear()
    with pytest.raises(UnknownTask, match=r"module pickled does not register the task 'pickled\.f'"):
        pickle.loads(data)
    del sys.modules["pickled"]
    assert pickle.loads(data) is registry.get("pickled.f")
    del sys.modules["pickled"]


# -- options ----------------------------------------------------------------------------------------------------------


def test_options_are_merged_and_later_ones_win() -> None:
    declared = task(queue="uploads", timeout=30.0)(send)
    chosen = declared.using(queue="bulk", priority=1).using(priority=5, timeout=timedelta(minutes=1))
    assert chosen.given == Options(queue="bulk", priority=5, timeout=60.0)
    assert (declared.queue, chosen.queue, chosen.using(queue=None).queue) == ("uploads", "bulk", "bulk")
    assert declared.given == Options()
    assert declared.options == chosen.options == Options(queue="uploads", timeout=30.0)
    assert chosen.name == declared.name
    assert chosen.using(delay=5).using(run_at=datetime(2026, 1, 1, tzinfo=UTC)).given.delay is None
    assert chosen.using(run_at=datetime(2026, 1, 1, tzinfo=UTC)).using(delay=5).given.run_at is None


def test_a_task_with_options_shares_the_hooks_and_signature_of_the_task() -> None:
    declared = task(send)
    seen: list[Any] = []

    @declared.using(delay=1).on_dead
    def hook(status: object) -> None:
        seen.append(status)

    assert declared.dead_hooks == [hook]
    assert declared.using(delay=2).signature is declared.signature
    assert declared.using(delay=2)(1) == "1 plain"
    assert repr(declared.using(delay=2, headers={"token": "x"})) == f"<Task '{__name__}.send' delay=2.0>"


NOW = datetime(2026, 1, 1, tzinfo=UTC)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"delay": 1, "run_at": NOW}, "delay and run_at"),
    *(({name: -1}, f"{name} must be a number of seconds") for name in ("delay", "timeout", "expires", "keep_result")),
    *(({"delay": value}, "delay must be") for value in (math.nan, math.inf, "1", True, 1e12, timedelta(seconds=-1))),
    ({"timeout": 0}, "timeout must be more than 0"),
    ({"timeout": timedelta(0)}, "timeout must be more than 0"),
    ({"run_at": datetime(2026, 1, 1)}, "run_at must be an aware datetime"),  # noqa: DTZ001  # naive, to be refused
    ({"run_at": "2026-01-01"}, "run_at must be a datetime"),
    ({"run_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "run_at must be in the years 1 to 9999"),
    *(({"priority": value}, "priority must be a whole number from -10 to 10") for value in (11, -11, 1.0, True)),
    *(({"crash_limit": value}, "crash_limit must be a whole number of at least 1") for value in (0, 1.5, True)),
    *(({"job_id": value}, "job_id must be") for value in ("", "a b", "a/b", "x" * 65, "a\n", 7)),
    *(({"queue": value}, "queue must be") for value in ("", ".a", "a b", "a/b", "x" * 65, "é", "a\n", 7)),
    *(({"key": value}, "key must be") for value in ("", "x" * 257, "a\x00", "\ud800", 7)),
    ({"group": ""}, "group must be"),
    ({"retry": 3}, "retry must be a Retry"),
    *(({"headers": value}, "header") for value in ("a", {"a": 1}, {1: "a"}, {"": "a"}, {"a": "\ud800"}, [("a", "b")])),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=repr)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        task(send).using(**options)
    with pytest.raises(ConfigurationError, match=message):
        task.named("other.resize", **options)


def test_options_at_the_limits_of_their_range_are_accepted() -> None:
    for options in (
        Options(delay=0, expires=0, keep_result=0, timeout=0.001, crash_limit=1, priority=-10),
        Options(priority=10, key="x" * 256, group="a b", job_id="x" * 64, queue="_" + "." * 63, headers={"a": ""}),
        Options(delay=30 * 86400),
    ):
        assert Options(**options.given()) == options


def test_run_at_is_stored_in_utc() -> None:
    local = datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))
    run_at = task(send).using(run_at=local).given.run_at
    assert run_at is not None
    assert (run_at, run_at.tzinfo) == (NOW, UTC)


def test_an_unknown_option_is_refused_and_the_nearest_name_suggested() -> None:
    for use in (task(send).using, functools.partial(task.named, "other.resize")):
        with pytest.raises(ConfigurationError, match="there is no option 'dellay' here; did you mean 'delay'"):
            use(dellay=1)  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportCallIssue]


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_has_its_arguments_and_a_new_id() -> None:
    declared = task(send)
    job = declared.job(42, template="welcome")
    assert (job.task, job.args, job.kwargs) == (declared.name, [42], {"template": "welcome"})
    assert (job.queue, job.expires, job.headers, job.options) == ("default", None, {}, Options())
    assert job.id != declared.job(42).id
    assert job.task_ref is declared
    with pytest.raises(FrozenInstanceError):
        job.queue = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_new_ids_are_uuids_that_sort_by_the_millisecond_in_which_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(100)]
    times = [int(job_id[:12], 16) for job_id in ids]
    assert before <= times[0] <= times[-1] <= time.time_ns() // 1_000_000
    assert times == sorted(times)
    assert len(set(ids)) == 100
    assert {(len(each), UUID(each).version, UUID(each).variant) for each in ids} == {(32, 7, RFC_4122)}


def test_a_job_can_be_replaced_with_checked_values_after_task_job_has_made_it() -> None:
    job = task(send).job(1)
    assert replace(job) == job
    with pytest.raises(InvalidJob, match="id must be"):
        replace(job, id="not valid")


def test_queue_and_expires_come_from_the_producer_or_else_from_the_declaration() -> None:
    declared = task(queue="uploads", expires=60, timeout=5, retry=Retry(max_attempts=1))(send)
    job = declared.job(1)
    assert (job.queue, job.expires, job.options) == ("uploads", 60.0, Options())
    job = declared.using(queue="bulk", expires=timedelta(minutes=2), job_id="a", headers={"b": "c"}, priority=3).job(1)
    assert (job.queue, job.expires, job.id, job.headers) == ("bulk", 120.0, "a", {"b": "c"})
    assert job.options == Options(priority=3), "the options repeat fields of the job"


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(InvalidJob, match=rf"task '{__name__}\.send': argument 'user_id': "):
        task(send).job("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidJob, match=r"task 'other\.resize': argument args\[0\]: set does not read back equal"):
        task.named("other.resize").job({1})


def test_parameters_may_have_any_name() -> None:
    def odd(self: int, function: int, args: int, kwargs: int) -> int:
        return self + function + args + kwargs

    declared = task(name="odd")(odd)
    assert declared(self=1, function=2, args=3, kwargs=4) == 10
    assert declared.job(self=1, function=2, args=3, kwargs=4).kwargs == dict(self=1, function=2, args=3, kwargs=4)  # noqa: C408  # in the form of the call


def test_a_field_that_a_hook_replaces_in_a_job_is_checked_again() -> None:
    job = task(send).job(1)
    headers = {"trace": "1"}
    changed = replace(job, headers=headers, queue="other")
    headers["trace"] = "changed afterwards"
    assert (changed.id, changed.headers, changed.queue) == (job.id, {"trace": "1"}, "other")
    refused: list[dict[str, Any]] = [
        *({"queue": "two words"}, {"id": ""}, {"headers": {"a": 1}}, {"expires": -1}),
        *({"task": ""}, {"task": "two words"}, {"task": "t" * 201}, {"task": None}),
        *({"payload": b""}, {"payload": b"[1]"}, {"payload": b"{"}, {"payload": b"[" * 100_000}),
    ]
    for wrong in refused:
        with pytest.raises(InvalidJob):
            replace(job, **wrong)


def test_jobs_that_send_the_same_are_equal() -> None:
    job = task(send).job(1)
    same: Job[Any] = Job(id=job.id, task=job.task, payload=job.payload)
    assert same == job
    assert "task_ref" not in repr(job)


def test_a_task_whose_code_is_elsewhere_is_not_registered_and_cannot_be_called() -> None:
    elsewhere = task.named("other.resize", queue="images", priority=2)
    job = elsewhere.job(7, size=[1, 2])
    assert (job.task, job.queue, job.args, job.kwargs) == ("other.resize", "images", [7], {"size": [1, 2]})
    assert job.options.priority == 2
    assert registry.get("other.resize") is None
    assert not elsewhere.is_async
    for use in (elsewhere, lambda: elsewhere.on_dead(print), lambda: registry.add(elsewhere)):
        with pytest.raises(ConfigurationError, match=r"the code of task 'other\.resize' is in another application"):
            use()


def test_enqueue_uses_the_default_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = task(send).using(delay=1)
    calls: list[tuple[Any, ...]] = []

    class Fake:
        def enqueue(self, job: Job[Any]) -> str:
            calls.append((job.task_ref, job.args, job.kwargs))
            return "handle"

    class AsyncFake:
        def __init__(self, queue: Fake) -> None:
            self.queue = queue

        async def enqueue(self, job: Job[Any]) -> str:
            return "async " + self.queue.enqueue(job)

    monkeypatch.setattr(default_queue, "open", Fake)
    monkeypatch.setattr(default_queue, "as_async", AsyncFake)
    assert [declared.enqueue(1, template="x"), asyncio.run(declared.aenqueue(2))] == ["handle", "async handle"]
    assert calls == [(declared, [1], {"template": "x"}), (declared, [2], {})]


def test_a_registered_name_means_its_task() -> None:
    with registry.isolated(), get_queue("memory://") as queue:

        @task(name="post.send", aliases=["old.send"], queue="post")
        def send(to: str) -> None: ...

        handle = queue.enqueue("post.send", "Ada")
        assert (handle.status().queue, queue.enqueue("old.send", "Ada").status().queue) == ("post", "post")
        with pytest.raises(InvalidJob, match="to"):
            queue.enqueue("post.send")
        assert queue.enqueue("not.known.here", 1).status().queue == "default"
