"""Tasks: the functions that jobs run, declared with `@task`, and the registry of those that this process can run.

For applications. Only what is in the registry is ever run; a job names a task, never a function.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from queueport.errors import ConfigurationError, InvalidJob, UnknownTask
from queueport.job import DEFAULT_QUEUE, Job, JobOptions, Options, TaskOptions, new_id
from queueport.retry import importable

if TYPE_CHECKING:
    from queueport.aio import AsyncJobHandle
    from queueport.arguments import Signature
    from queueport.queue import JobHandle
    from queueport.status import JobStatus

__all__ = ["Registry", "Task", "registry", "task"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
NOTHING = Options()

Hook = TypeVar("Hook", bound="Callable[[JobStatus], object]")


class Task(Generic[P, R, C]):
    """A function that can be enqueued: P its parameters, R its result, C what a plain call gives (R, or its coroutine).

        @task
        def send_email(user_id: int, template: str) -> str: ...

        send_email(1, "welcome")                                    # a plain call, here and now
        send_email.using(delay=60).enqueue(1, "welcome")            # on the process's default queue

    Made by `task`. Immutable but for its hooks, thread-safe, pickled by name.
    """

    __wrapped__: Callable[..., Any]
    """The function again, by the name that `inspect` knows; not set for a task whose code is elsewhere."""
    name: Final[str]
    aliases: Final[tuple[str, ...]]
    """Older names: jobs that bear them run this task too."""
    function: Final[Callable[..., Any] | None]
    """None for a task whose code is elsewhere (`task.named`)."""
    options: Final[Options]
    """Those of the declaration; a worker applies them where the producer gave none."""
    given: Final[Options]
    """Those of `using()` and `task.named()`: the producer's word."""
    dead_hooks: Final[list[Callable[[JobStatus], object]]]
    """Called with the status of a job of this task that died."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any] | None,
        *,
        aliases: Sequence[str] = (),
        options: Options = NOTHING,
        given: Options = NOTHING,
        like: Task[P, R, C] | None = None,
    ) -> None:
        """For `task`, which checks all this; `like` is the task whose signature and hooks to share."""
        if function is None:
            self.__name__: str = name.rpartition(".")[2]
            self.__qualname__: str = name
        else:
            functools.update_wrapper(self, function, updated=())  # for help(), and for those who inspect functions
        self.name = name
        self.aliases = tuple(aliases)
        self.function = function
        self.options = options
        self.given = given
        self.dead_hooks = [] if like is None else like.dead_hooks
        self._like = like
        self._queue = given.queue or options.queue or DEFAULT_QUEUE
        self._expires = options.expires if given.expires is None else given.expires
        self._others = replace(given, queue=None, expires=None, job_id=None, headers=None)

    @property
    def queue(self) -> str:
        """The queue that its jobs go to."""
        return self._queue

    @functools.cached_property
    def signature(self) -> Signature:
        """Arguments and result as JSON and back."""
        if self._like is not None:
            return self._like.signature
        from queueport.arguments import Signature  # which takes pydantic: not before it is needed

        return Signature(self.name, self.function)

    @property
    def is_async(self) -> bool:
        """Whether the function is an `async def`."""
        return inspect.iscoroutinefunction(self.function)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function, here and now. Raises ConfigurationError where its code is elsewhere."""
        if self.function is None:
            raise ConfigurationError(
                f"the code of task {self.name!r} is elsewhere: enqueue it, or import it to call it"
            )
        return cast("C", self.function(*args, **kwargs))

    def using(self, **options: Unpack[JobOptions]) -> Task[P, R, C]:
        """The same task with options for the jobs made of it; later ones win over earlier ones.

        See `JobOptions`; durations are seconds or timedeltas. Raises InvalidJob for a value out of its range.
        """
        return self._with(Options.of(options, JobOptions.__optional_keys__).over(self.given))

    def job(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """A job that runs this task with these arguments, not yet enqueued. Raises InvalidJob, naming the parameter."""
        return Job(
            id=self.given.job_id or new_id(),
            task=self.name,
            payload=self.signature.encode(args, kwargs),
            queue=self._queue,
            expires=self._expires,
            headers=self.given.headers or {},
            options=self._others,
            task_ref=self,
        )

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue a job on the process's default queue; as `get_queue().enqueue(this, ...)`, which tells the errors."""
        from queueport.connect import get_queue

        return get_queue().enqueue(self, *args, **kwargs)

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncJobHandle[R]:
        """As `enqueue`, without blocking the event loop."""
        from queueport.aio import AsyncJobQueue
        from queueport.connect import get_queue

        return await AsyncJobQueue(get_queue()).enqueue(self, *args, **kwargs)

    def on_dead(self, hook: Hook) -> Hook:
        """Register `hook(status)`, called when a job of this task died, in the worker that declared it dead."""
        if self.function is None:
            raise ConfigurationError(f"the code of task {self.name!r} is elsewhere, and so is its on_dead hook")
        self.dead_hooks.append(hook)
        return hook

    def _with(self, given: Options) -> Task[P, R, C]:
        return Task(self.name, self.function, aliases=self.aliases, options=self.options, given=given, like=self)

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
        raise UnknownTask(f"no task {name!r} is registered here, and importing {module} does not register it")
    return found if given == NOTHING else found._with(given)


class Registry:
    """The tasks that this process can run, by name and alias. Thread-safe."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any, Any]] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Task[..., Any, Any] | None:
        """The task of that name or alias, or None."""
        return self._tasks.get(name)

    def names(self) -> list[str]:
        """Every name and alias, sorted."""
        return sorted(self._tasks)

    def tasks(self) -> list[Task[..., Any, Any]]:
        """Every task once, in the order of their declaration."""
        return list(dict.fromkeys(self._tasks.values()))

    def add(self, task: Task[..., Any, Any]) -> None:
        """Register a task; the same function, from a module that was loaded again, replaces itself.

        Raises ConfigurationError if its name or one of its aliases belongs to another function, and for a task
        whose code is elsewhere.
        """
        if task.function is None:
            raise ConfigurationError(f"the code of task {task.name!r} is elsewhere: it cannot be run here")
        names = (task.name, *task.aliases)
        with self._lock:
            taken = {name: self._tasks[name] for name in names if name in self._tasks}
            for name, old in taken.items():
                if not _same(old, task):
                    raise ConfigurationError(
                        f"the task name {name!r} is taken by {_place(old)}; give {_place(task)} another by name="
                    )
            kept = {name: other for name, other in self._tasks.items() if other not in taken.values()}
            self._tasks = kept | dict.fromkeys(names, task)  # a new dict, for those who read meanwhile

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Forget, at the end, what was registered meanwhile; for tests."""
        kept = self._tasks
        try:
            yield
        finally:
            self._tasks = kept


class Declaration(Protocol):
    """What `task(...)` with options gives: the decorator that makes a function a task."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class TaskDecorator:
    """`@task` and `@task(queue="uploads", retry=Retry(...))` make a function or a staticmethod a task.

    Its name is "module.qualname" or `name=`; `aliases=` are the names it had before, whose jobs it takes over.
    The options are those of `TaskOptions`. Raises ConfigurationError for what cannot be a task, and for a taken name.
    """

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def __call__(
        self, /, *, name: str | None = None, aliases: Sequence[str] = (), **options: Unpack[TaskOptions]
    ) -> Declaration: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        **options: Unpack[TaskOptions],
    ) -> Any:
        def declare(function: Callable[..., Any]) -> Task[..., Any, Any]:
            function = _plain_function(function)
            chosen = _checked_name(_default_name(function) if name is None else name)
            if isinstance(aliases, str):
                raise ConfigurationError(f"task {chosen!r}: aliases must be a tuple of names, not {aliases!r}")
            older = tuple(_checked_name(alias) for alias in aliases)
            known = _options(chosen, options, TaskOptions.__optional_keys__)
            declared: Task[..., Any, Any] = Task(chosen, function, aliases=older, options=known)
            registry.add(declared)
            return declared

        return declare if function is None else declare(function)

    def named(self, name: str, /, **options: Unpack[JobOptions]) -> Task[..., Any, Any]:
        """A task whose code is elsewhere, to be enqueued only; its arguments are plain JSON."""
        return Task(_checked_name(name), None, given=_options(name, options, JobOptions.__optional_keys__))


def _options(name: str, options: JobOptions | TaskOptions, known: frozenset[str]) -> Options:
    try:
        return Options.of(options, known)
    except (InvalidJob, ConfigurationError) as error:
        raise ConfigurationError(f"task {name!r}: {error}") from None


def _plain_function(given: Any) -> Callable[..., Any]:
    """The function to run, out of a staticmethod; ConfigurationError for what cannot be named or run."""
    static = isinstance(given, staticmethod)
    function: object = given.__func__ if static else given
    if not inspect.isfunction(function) or not inspect.isfunction(inspect.unwrap(function)):
        raise ConfigurationError(f"@task takes a function, not {function!r}; a name is given as @task(name=...)")
    place, body = _place(function), inspect.unwrap(function)
    if function.__name__ == "<lambda>":
        raise ConfigurationError(f"{place} cannot be a task: write it as a function with a name")
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise ConfigurationError(f"{place} cannot be a task: it is a generator, and a task returns its result")
    owner, first = function.__qualname__.rpartition(".")[0], body.__code__.co_varnames[: body.__code__.co_argcount][:1]
    if owner and not owner.endswith("<locals>") and not static and first in (("self",), ("cls",)):
        raise ConfigurationError(f"{place} cannot be a task: it is a method; make it a function or a staticmethod")
    return function


def _default_name(function: Callable[..., Any]) -> str:
    if "<locals>" in function.__qualname__:
        raise ConfigurationError(f"{_place(function)} is defined inside a function: give it a name, @task(name=...)")
    if importable(function.__module__) in ("__main__", "__mp_main__"):
        raise ConfigurationError(
            f"{_place(function)} is in a script, which no worker can import: give it a name, @task(name=...)"
        )
    return _place(function)


def _checked_name(name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and " " not in name:
        return name
    raise ConfigurationError(f"a task's name must be 1 to 200 printable characters without blanks, not {name!r}")


def _place(function: Callable[..., Any] | Task[..., Any, Any]) -> str:
    return f"{importable(function.__module__)}.{function.__qualname__}"


def _same(one: Task[..., Any, Any], other: Task[..., Any, Any]) -> bool:
    """Whether two tasks are one function, loaded twice: under one name, or from one file."""
    files = {inspect.unwrap(cast("Any", each)).__code__.co_filename for each in (one, other)}
    return _place(one) == _place(other) or (one.__qualname__ == other.__qualname__ and len(files) == 1)


registry: Final = Registry()
task: Final = TaskDecorator()
