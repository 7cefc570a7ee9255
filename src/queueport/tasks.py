"""Tasks: the functions that jobs run, declared with `@task`, and the registry of the tasks that a process can run.

For applications. A job contains the name of its task. A worker runs only the tasks that it was given; by default, those
in the registry of its process.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from queueport.context import default_queue
from queueport.errors import ConfigurationError, InvalidJob, UnknownTask
from queueport.job import (
    DEFAULT_QUEUE,
    TASK_NAME,
    AsyncJobHandle,
    Job,
    JobDraft,
    JobHandle,
    JobOptions,
    Options,
    PlainJobOptions,
    TaskOptions,
    frozen,
    is_task_name,
    new_id,
)
from queueport.job.limits import LimitOptions, TaskLimit, task_limit
from queueport.job.recurrence import Recurrence, RecurrenceOptions
from queueport.retry import importable

if TYPE_CHECKING:
    from types import FrameType

    from queueport.job.arguments import Signature
    from queueport.status import JobStatus

__all__ = ["Registry", "Task", "registry", "task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
C = TypeVar("C")
NO_OPTIONS = Options()
RECURRENCE = RecurrenceOptions.__optional_keys__
LIMITS = LimitOptions.__optional_keys__
ELSEWHERE = dict.fromkeys(("delay", "send"), "task.enqueue(...)") | dict.fromkeys(
    ("apply_async", "send_with_options"), "task.using(delay=60, queue='bulk').enqueue(...)"
)
"""For each method of Celery's and Dramatiq's tasks that enqueues a job, the call to use with queueport instead."""

Hook = TypeVar("Hook", bound="Callable[[JobStatus], object]")


class Task(Generic[P, R, C]):
    """A function that jobs can run. `@task` makes a Task, and `task.named` makes one for code in another application.

        @task
        def send_email(user_id: int, template: str) -> str: ...

        send_email(1, "welcome")                                # calls the function
        send_email.using(delay=60).enqueue(1, "welcome")        # enqueues a job on the process's default queue

    Type parameters: P, the parameters of the function; R, the type of its result; C, the type of what a plain call
    returns, which is R, or a coroutine for an `async def`. A task is thread-safe. It is pickled as its name and its
    `using` options.
    """

    __wrapped__: Callable[..., Any]
    """The function. `inspect` reads this attribute. Not set for a task that `task.named` made."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any] | None,
        *,
        aliases: Sequence[str] = (),
        options: Options = NO_OPTIONS,
        given: Options = NO_OPTIONS,
        recurrence: Recurrence | None = None,
        limit: TaskLimit | None = None,
        like: Task[P, R, C] | None = None,
    ) -> None:
        """Make a task from checked arguments. Applications use `@task` or `task.named` instead.

        If `like` is given, the new task shares the signature, recurrence, limit and on_dead hooks of `like`.
        """
        if function is None:
            self.__name__: str = name.rpartition(".")[2]
            self.__qualname__: str = name
        else:
            functools.update_wrapper(self, function, updated=())  # so that help() and `inspect` show the function
        self.name: Final[str] = name
        self.aliases: Final[tuple[str, ...]] = tuple(aliases)
        """Former names of the task. A job that contains one of them runs this task too."""
        self.function: Final[Callable[..., Any] | None] = function
        """The code of the task. None for a task that `task.named` made: its code is in another application."""
        self.options: Final[Options] = options
        """The options of the declaration, for what the producer did not give. `queue` and `expires` apply at enqueue,
        the others when a worker begins the job."""
        self.given: Final[Options] = given
        """The options that the producer gave, by `using()` or `task.named()`."""
        self.recurrence: Final[Recurrence | None] = recurrence if like is None else like.recurrence
        """When the task's recurring job runs; None if the declaration has neither `every` nor `cron`."""
        self.limit: Final[TaskLimit | None] = limit if like is None else like.limit
        """How many jobs of the task may run at a time, or start in a time; None if the declaration does not say."""
        self.dead_hooks: Final[list[Callable[[JobStatus], object]]] = [] if like is None else like.dead_hooks
        """The hooks that `on_dead` registered."""
        self._like = like
        self.queue: Final[str] = given.queue or options.queue or DEFAULT_QUEUE
        """The queue that the task's jobs are enqueued in."""
        self._expires = options.expires if given.expires is None else given.expires
        self._others = replace(given, queue=None, expires=None, job_id=None, headers=None)

    @functools.cached_property
    def signature(self) -> Signature:
        """Encodes and decodes the arguments and results of this task."""
        if self._like is not None:
            return self._like.signature
        from queueport.job.arguments import Signature  # imported here, because pydantic is slow to import

        return Signature(self.name, self.function)

    @property
    def is_async(self) -> bool:
        """True if the function is an `async def`. False for a task that `task.named` made."""
        return inspect.iscoroutinefunction(self.function)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function, without a job. Raises ConfigurationError for a task that `task.named` made."""
        if self.function is None:
            raise ConfigurationError(
                f"the code of task {self.name!r} is in another application: enqueue it, or import and call its function"
            )
        return cast("C", self.function(*args, **kwargs))

    @overload
    def using(
        self: Task[Concatenate[Any, Q], R, C], *, pass_result: Literal[True], **options: Unpack[PlainJobOptions]
    ) -> Task[Q, R, C]: ...
    @overload
    def using(
        self, *, pass_result: Literal[False] | None = None, **options: Unpack[PlainJobOptions]
    ) -> Task[P, R, C]: ...
    def using(self, **options: Unpack[JobOptions]) -> Task[..., R, C]:
        """Return a copy of the task whose jobs have these options.

            send_email.using(delay=60, queue="bulk").enqueue(1, "welcome")

        `JobOptions` lists the options; durations are seconds or timedeltas. An option that is not None replaces the
        same option of an earlier `using`; `delay` also replaces an earlier `run_at`, and `run_at` an earlier `delay`.
        Raises ConfigurationError for an unknown option, and InvalidJob for a value of a wrong type or range and for
        `delay` together with `run_at`.
        """
        return self._with(Options.of(options, JobOptions.__optional_keys__).over(self.given))

    def job(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Make a job of this task, without enqueueing it.

        Raises InvalidJob if the task cannot be called with these arguments, or, naming the parameter, if an argument
        does not match its annotation, cannot be encoded or would not be equal after decoding; also for `pass_result` if
        the task has a `concurrency_key`. Raises ConfigurationError if an annotation cannot be resolved or used.
        """
        given = self.given
        draft = JobDraft(  # JobDraft checks no values, because `Options` has checked them
            id=given.job_id or new_id(),
            task=self.name,
            payload=self.signature.encode(args, kwargs, passed=int(given.pass_result is True)),
            queue=self.queue,
            expires=self._expires,
            headers={} if given.headers is None else dict(given.headers),
            options=self._others,
            task_ref=self,
        )
        if self.limit is not None and self.limit.key is not None:
            if given.pass_result:
                raise InvalidJob(
                    f"a job of task {self.name!r} cannot have pass_result=True, because its first argument is not "
                    "known yet, but the concurrency_key of the task needs all arguments"
                )
            draft.limit_key = self.limit_key(args, kwargs)
        return frozen(draft, Job)

    def limit_key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """What `concurrency_key` returns for these arguments of a job; None without one.

        For the core. Raises InvalidJob if the function raises an exception, or does not return an integer or a text.
        """
        if self.limit is None or self.limit.key is None:
            return None
        complete = self.signature.with_defaults(args, kwargs)
        return self.limit.key_of(self.name, (args, kwargs), complete)

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue a job on the default queue, which inside a task is the queue of the task's worker.

        Raises the errors of `job`, `get_queue` and `JobQueue.enqueue`.
        """
        return default_queue.get().enqueue(self.job(*args, **kwargs))

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncJobHandle[R]:
        """Enqueue a job as `enqueue` does. A thread does the I/O, so that the event loop is not blocked."""
        queue = default_queue.as_async(default_queue.get())
        handle: AsyncJobHandle[R] = await queue.enqueue(self.job(*args, **kwargs))
        return handle

    def decode_result(self, data: bytes) -> R:
        """Decode a result from JSON to the annotated type. Raises InvalidJob if the result is not of that type."""
        value: R = self.signature.decode_result(data)
        return value

    def on_dead(self, hook: Hook) -> Hook:
        """Register a function that is called with the `JobStatus` of each job of this task that died.

            @send_email.on_dead
            def alert(status): ...

        The process that recorded the death, usually a worker, calls the function, at most once: not if that process
        crashes before the call, or does not learn that the store has recorded the death. If the function raises, the
        error is logged. A job of `DeadLetters.add` has not died, so the function is not called. Raises
        ConfigurationError for a task that `task.named` made.
        """
        if self.function is None:
            raise ConfigurationError(f"the code of task {self.name!r} is in another application: register hooks there")
        self.dead_hooks.append(hook)
        hook_modules[id(hook)] = declaring_module(hook.__module__)
        return hook

    def _with(self, given: Options) -> Task[P, R, C]:
        return Task(self.name, self.function, aliases=self.aliases, options=self.options, given=given, like=self)

    if not TYPE_CHECKING:  # for a type checker, an unknown attribute stays an error

        def __getattr__(self, name: str) -> Any:
            """Raise an AttributeError. For the methods in ELSEWHERE, the error names the call to use with queueport."""
            hint = f": use {ELSEWHERE[name]}" if name in ELSEWHERE else ""
            raise AttributeError(f"a task has no attribute {name!r}{hint}", name=name, obj=self)

    def __repr__(self) -> str:
        given = "".join(f" {name}={value!r}" for name, value in self.given.given().items() if name != "headers")
        return f"<Task {self.name!r}{given}>"

    def __reduce__(self) -> tuple[Callable[..., Task[Any, Any, Any]], tuple[Any, ...]]:
        return _unpickle, (self.name, importable(self.__module__) if self.function else None, self.given)


def _unpickle(name: str, module: str | None, given: Options) -> Task[..., Any, Any]:
    if module is None:
        return Task(name, None, given=given)
    if registry.get(name) is None:
        importlib.import_module(module)
    if (found := registry.get(name)) is None:
        raise UnknownTask(f"the module {module} does not register the task {name!r}: declare it there with @task")
    return found if given == NO_OPTIONS else found._with(given)


class Registry:
    """The tasks that this process can run, by name and alias. Thread-safe."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any, Any]] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Task[..., Any, Any] | None:
        """The task with this name or alias, or None."""
        return self._tasks.get(name)

    def names(self) -> list[str]:
        """Every name and alias, sorted."""
        return sorted(self._tasks)

    def tasks(self) -> list[Task[..., Any, Any]]:
        """Every task once, in the order of the latest registrations."""
        return list(dict.fromkeys(self._tasks.values()))

    def add(self, task: Task[..., Any, Any]) -> None:
        """Register a task. If its module is loaded a second time, the new task replaces the earlier one.

        Raises ConfigurationError if another function has the name or one of the aliases, and for a task that
        `task.named` made.
        """
        if task.function is None:
            raise ConfigurationError(
                f"the code of task {task.name!r} is in another application: declare it with @task there, and import "
                "that module here if this process is to run it"
            )
        names = (task.name, *task.aliases)
        with self._lock:
            taken = {name: self._tasks[name] for name in names if name in self._tasks}
            for name, old in taken.items():
                if not _same(old, task):
                    raise ConfigurationError(
                        f"the task name {name!r} is taken by {_place(old)}; give {_place(task)} another name with "
                        "name= or aliases="
                    )
            kept = {name: other for name, other in self._tasks.items() if other not in taken.values()}
            self._tasks = kept | dict.fromkeys(names, task)  # a new dict, because other threads read without the lock

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """A context manager that undoes, at its end, the registrations made inside it. For tests."""
        kept = self._tasks
        try:
            yield
        finally:
            self._tasks = kept


class DeclarationOptions(TaskOptions, RecurrenceOptions, LimitOptions, total=False):
    """The options of `@task(...)`, besides `name` and `aliases`."""


class Declaration(Protocol):
    """The decorator that `task(...)` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class TaskDecorator:
    """The decorator `task`: declares a module-level function or a staticmethod as a task, and registers it.

        @task
        def send_email(user_id: int) -> str: ...

        @task(queue="uploads", retry=Retry(max_attempts=5), timeout=30)
        async def process_upload(file_id: int) -> dict[str, int]: ...

    The task's name is `name=`, or "module.qualname" by default. `aliases=` are former names of the task, so that jobs
    that contain such a name still run. `TaskOptions` lists the other options.

        @task(cron="0 3 * * *", timezone="Europe/Berlin")
        def clean_up() -> None: ...

    `concurrency`, `concurrency_key`, `rate` and `burst` limit the jobs that run or start; see `LimitOptions`.

    With `every` or `cron`, the workers run the task at these times, without arguments; see `RecurrenceOptions`.

    Raises ConfigurationError if the function cannot be a task (a method, a lambda, a generator), if it is defined in a
    function or in a script and `name=` is missing, if another task has the name or an alias, and for a wrong name or
    option.
    """

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def __call__(
        self, /, *, name: str | None = None, aliases: Sequence[str] = (), **options: Unpack[DeclarationOptions]
    ) -> Declaration: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        **options: Unpack[DeclarationOptions],
    ) -> Any:
        def declare(function: Callable[..., Any]) -> Task[..., Any, Any]:
            function = _plain_function(function)
            chosen = _checked_name(_default_name(function) if name is None else name)
            if isinstance(aliases, str):
                raise ConfigurationError(f"task {chosen!r}: aliases must be a list or tuple of names, not {aliases!r}")
            older = tuple(_checked_name(alias) for alias in aliases)
            recurrence = _recurrence(chosen, function, options)
            others = {name: value for name, value in options.items() if name not in RECURRENCE | LIMITS}
            with _options_of(chosen):
                limit = task_limit(options)
                known = Options.of(cast("TaskOptions", others), TaskOptions.__optional_keys__)
            declared: Task[..., Any, Any] = Task(
                chosen, function, aliases=older, options=known, recurrence=recurrence, limit=limit
            )
            declared.__module__ = declaring_module(function.__module__)
            registry.add(declared)
            return declared

        return declare if function is None else declare(function)

    def named(self, name: str, /, **options: Unpack[JobOptions]) -> Task[..., Any, Any]:
        """Make a task whose code is in another application. This task can only be enqueued, with plain JSON arguments.

            task.named("other.service.resize", queue="images").enqueue(7)

        Raises ConfigurationError for a wrong name or option.
        """
        with _options_of(_checked_name(name)):
            return Task(name, None, given=Options.of(options, JobOptions.__optional_keys__))


@contextmanager
def _options_of(name: str) -> Iterator[None]:
    """Name the task in an error about one of its options, which is always a ConfigurationError."""
    try:
        yield
    except (InvalidJob, ConfigurationError) as error:
        raise ConfigurationError(f"task {name!r}: {error}") from None


def _recurrence(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Recurrence | None:
    """The recurrence that the options of a declaration give; None if they give none. Raises ConfigurationError."""
    given = {option: value for option, value in options.items() if option in RECURRENCE and value is not None}
    if not given:
        return None
    if not given.keys() & {"every", "cron"}:
        raise ConfigurationError(
            f"task {name!r}: {', '.join(given)} needs every= or cron=: without them, the task does not recur"
        )
    needed = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind.name not in ("VAR_POSITIONAL", "VAR_KEYWORD")
    ]
    if needed:
        raise ConfigurationError(
            f"task {name!r}: a recurring job has no arguments: give {', '.join(needed)} a default value, or add the "
            "job with queue.schedules.add"
        )
    with _options_of(name):
        return Recurrence(**given)


def _plain_function(given: Any) -> Callable[..., Any]:
    """The decorated function; for a staticmethod, its function. Raises ConfigurationError if it cannot be a task."""
    static = isinstance(given, staticmethod)
    function: object = given.__func__ if static else given
    if not inspect.isfunction(function) or not inspect.isfunction(inspect.unwrap(function)):
        raise ConfigurationError(f"@task takes a function, not {function!r}; to give a name, write @task(name=...)")
    place, body = _place(function), inspect.unwrap(function)
    if function.__name__ == "<lambda>":
        raise ConfigurationError(f"{place} cannot be a task: it is a lambda; write it as a function with a name")
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise ConfigurationError(f"{place} cannot be a task: it is a generator; return a result instead of yielding")
    owner, first = function.__qualname__.rpartition(".")[0], body.__code__.co_varnames[: body.__code__.co_argcount][:1]
    if owner and not owner.endswith("<locals>") and not static and first in (("self",), ("cls",)):
        raise ConfigurationError(f"{place} cannot be a task: it is a method; make it a function or a staticmethod")
    return function


def _default_name(function: Callable[..., Any]) -> str:
    if "<locals>" in function.__qualname__:
        raise ConfigurationError(
            f"{_place(function)} is defined inside a function: move it out, or name it with @task(name=...)"
        )
    if importable(function.__module__) in ("__main__", "__mp_main__"):
        raise ConfigurationError(
            f"{_place(function)} is in a script, which other processes cannot import: move it to a module, or, if only "
            "this process runs its jobs, name it with @task(name=...)"
        )
    return _place(function)


def _checked_name(name: object) -> str:
    if isinstance(name, str) and is_task_name(name):
        return name
    raise ConfigurationError(f"a task's name must be {TASK_NAME}, not {name!r}")


def _place(function: Callable[..., Any] | Task[..., Any, Any]) -> str:
    return f"{importable(function.__module__)}.{function.__qualname__}"


def declaring_module(own: str) -> str:
    """The module whose import repeats the present declaration of a function of the module `own`, in another process.

    This is `own` if its code calls queueport, directly or by way of other modules. Otherwise, it is the module that
    calls queueport: the function is then a library's, for example.
    """
    caller = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "queueport"))  # code of `exec` has no name: leave it out
        if name == own:
            return own
        if caller is None and name.partition(".")[0] != "queueport":
            caller = name
        frame = frame.f_back
    return own if caller is None else caller


def _same(one: Task[..., Any, Any], other: Task[..., Any, Any]) -> bool:
    """True if both tasks are probably one function that was loaded twice.

    Both then have the same module and qualified name, or the same qualified name and source file.
    """
    files = {inspect.unwrap(cast("Any", each)).__code__.co_filename for each in (one, other)}
    return _place(one) == _place(other) or (one.__qualname__ == other.__qualname__ and len(files) == 1)


hook_modules: Final[dict[int, str]] = {}
"""The `declaring_module` of each hook, by the `id` of the hook."""
registry: Final = Registry()
task: Final = TaskDecorator()
