"""`AsyncTransport`: time limits, reconnection, closing, interruption and forks. For authors of the SPI."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Self

import pytest

from queueport.errors import BackendUnavailable
from queueport.spi import AsyncTransport
from queueport.spi.event_loop import Closed, LoopThread, NoAnswer, _Running
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.settings import Settings
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery
from queueport.spi.url import BackendURL
from queueport.testing.waiting import eventually


class ServerError(Exception):
    """The only exception class of the fake library."""


class Connection:
    """A connection of the fake library."""

    def __init__(self) -> None:
        self.usable = True
        self.closed = False
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.cancelled = 0

    async def thread_of(self) -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async def hang(self) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def fail(self, error: Exception) -> None:
        raise error


class PretendedTransport(AsyncTransport[Connection]):
    """A transport without a server. `opened` are the connections so far. `refusal` is the error of new connections."""

    name = "pretended"
    errors = (ServerError,)

    def __init__(self, call_timeout: float = 2.0) -> None:
        super().__init__(call_timeout)
        self.opened: list[Connection] = []
        self.refusal: Exception | None = None
        self.hangs = False

    async def connect(self) -> Connection:
        await asyncio.sleep(0.01)
        if self.hangs:
            await asyncio.sleep(60)
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(Connection())
        return self.opened[-1]

    def connected(self, connection: Connection) -> bool:
        return connection.usable

    async def disconnect(self, connection: Connection) -> None:
        connection.closed = True
        connection.usable = False

    def explain(self, error: Exception) -> str:
        return f"the server said {type(error).__name__} {error}"

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        raise NotImplementedError

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        raise NotImplementedError

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        raise NotImplementedError

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        raise NotImplementedError

    def put_aside(self, delivery: Delivery) -> None:
        raise NotImplementedError

    def depth(self, queue: str) -> Depth | None:
        raise NotImplementedError

    def check(self) -> Sequence[str]:
        raise NotImplementedError

    def use(self) -> int:
        """Make a call. It returns the id of the event loop's thread."""
        return self.call(Connection.thread_of)


@pytest.fixture
def transport() -> PretendedTransport:
    return PretendedTransport()


def loop_threads() -> int:
    """The number of event loop threads of these transports."""
    return sum(thread.name == "queueport-pretended" for thread in threading.enumerate())


def test_all_threads_share_one_connection_in_one_event_loop_thread(transport: PretendedTransport) -> None:
    assert loop_threads() == 0, "a transport must do nothing before its first use"
    with ThreadPoolExecutor(8) as pool:
        threads = set(pool.map(lambda _: transport.use(), range(80)))
    assert threads == {transport.opened[0].thread}
    assert threads != {threading.get_ident()}
    assert (len(transport.opened), loop_threads()) == (1, 1)
    transport.close()
    assert transport.opened[0].closed
    assert loop_threads() == 0


def test_a_call_ends_in_time_and_does_nothing_later() -> None:
    transport = PretendedTransport(call_timeout=0.2)
    for timeout in (None, 0.1):
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="the server said TimeoutError") as caught:
            transport.call(Connection.hang, timeout)
        assert time.monotonic() - started < 1.0
        assert isinstance(caught.value.__cause__, TimeoutError)
    assert transport.opened[0].cancelled == 2
    transport.close()


def test_a_call_ends_in_time_even_if_an_operation_blocks_the_event_loop() -> None:
    transport = PretendedTransport(call_timeout=0.1)
    released = threading.Event()

    async def block(_: Connection) -> None:
        released.wait(10)

    with pytest.raises(BackendUnavailable) as caught:
        transport.call(block)
    assert isinstance(caught.value.__cause__, NoAnswer)
    released.set()
    eventually(transport.use)
    transport.close()


def test_only_errors_of_the_library_and_the_network_mean_that_the_backend_is_unavailable(
    transport: PretendedTransport,
) -> None:
    for error in (ServerError("no"), ConnectionResetError("no")):
        with pytest.raises(BackendUnavailable, match=f"the server said {type(error).__name__} no") as caught:
            transport.call(partial(Connection.fail, error=error))
        assert caught.value.__cause__ is error
    with pytest.raises(ZeroDivisionError):
        transport.call(lambda connection: connection.fail(ZeroDivisionError()))
    transport.close()


def test_a_failed_attempt_to_connect_is_explained_and_made_again(transport: PretendedTransport) -> None:
    transport.refusal = ServerError("not yet")
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="the server said ServerError not yet"):
            transport.use()
    transport.refusal = None
    assert transport.use()
    transport.close()


def test_a_server_that_does_not_let_us_connect_in_time_is_tried_again() -> None:
    transport = PretendedTransport(call_timeout=0.3)
    transport.hangs = True
    with pytest.raises(BackendUnavailable, match="the server said TimeoutError"):
        transport.use()
    transport.hangs = False
    assert transport.use()
    transport.close()


def test_a_process_with_too_many_open_files_says_so_and_recovers(
    transport: PretendedTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", fail)
        with pytest.raises(BackendUnavailable, match="too many open files"):
            transport.use()
    assert transport.use()
    transport.close()


def test_a_lost_connection_is_closed_and_replaced(
    transport: PretendedTransport, caplog: pytest.LogCaptureFixture
) -> None:
    transport.use()
    transport.opened[0].usable = False
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: transport.use(), range(8)))
    assert [connection.closed for connection in transport.opened] == [True, False]
    assert caplog.messages == ["the connection to pretended was lost; reconnecting"]
    transport.close()


def test_a_post_before_the_event_loop_has_started_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        async def close(self) -> None: ...

    async def answer(_: Nothing) -> int:
        return 1

    called: list[int] = []
    thread = LoopThread("test", Nothing)
    start = _Running.start

    def post_and_start(self: _Running[Nothing]) -> None:
        thread.post(called.append, 1)
        start(self)
        thread.post(called.append, 2)

    monkeypatch.setattr(_Running, "start", post_and_start)
    assert thread.call(answer, 10) == 1
    assert called == [2]
    thread.close()


class Plain:
    """A resource whose methods are functions."""

    def __init__(self) -> None:
        self.answers: list[Callable[[int], None]] = []

    def answer(self, answer: Callable[[int], None]) -> None:
        answer(1)
        answer(2)

    def fail(self, _: Callable[[int], None]) -> None:
        raise ZeroDivisionError

    def keep(self, answer: Callable[[int], None]) -> None:
        self.answers.append(answer)

    def end(self, _: Callable[[int], None]) -> None:
        asyncio.get_running_loop().stop()

    async def close(self) -> None: ...


def test_a_function_in_the_event_loop_answers_at_once_or_later() -> None:
    thread = LoopThread("test", Plain)
    assert thread.ask(Plain.answer, 10) == 1
    with pytest.raises(ZeroDivisionError):
        thread.ask(Plain.fail, 10)
    with pytest.raises(NoAnswer):
        thread.ask(Plain.keep, 0.05)
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(thread.ask, Plain.keep, 10.0)
        kept = thread.resource
        assert kept is not None
        eventually(lambda: len(kept.answers) == 2)
        thread.post(kept.answers[1], 3)
        assert later.result(10) == 3
    thread.close()


def test_a_function_that_has_not_answered_raises_when_the_event_loop_ends() -> None:
    thread = LoopThread("test", Plain)
    with pytest.raises(ConnectionAbortedError, match="ended unexpectedly"):
        thread.ask(Plain.end, 10)
    assert thread.ask(Plain.answer, 10) == 1
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(thread.ask, Plain.keep, 10.0)
        kept = thread.resource
        assert kept is not None
        eventually(lambda: kept.answers)
        thread.close()
        with pytest.raises(Closed):
            waiting.result(10)


def test_a_thread_that_has_ended_unexpectedly_is_replaced(transport: PretendedTransport) -> None:
    async def end(connection: Connection) -> None:
        connection.loop.stop()  # a library may end its thread in this way
        await connection.hang()

    transport.use()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.call, Connection.hang, 30.0)
        eventually(waiting.running)
        with pytest.raises(BackendUnavailable, match=r"the server said ConnectionAbortedError .* try again"):
            transport.call(end)
        with pytest.raises(BackendUnavailable, match="ended unexpectedly"):
            waiting.result(5)
    assert transport.use()
    assert len(transport.opened) == 2
    assert loop_threads() == 1
    transport.close()


@pytest.mark.parametrize("patched", ["thread=False", "select=False"])
def test_the_error_says_that_gevent_patched_only_a_part_of_the_process(patched: str) -> None:
    if find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    program = (
        f"from gevent import monkey; monkey.patch_all({patched})\n"
        "from queueport.spi.event_loop import LoopThread\n"
        "try: LoopThread('refused', object)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout.startswith("ConfigurationError this process has monkey-patched ")
    assert "call gevent's monkey.patch_all() or eventlet's monkey_patch() without arguments" in ended.stdout


def test_close_ends_calls_at_once_and_may_be_called_by_many(transport: PretendedTransport) -> None:
    transport.use()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(transport.call, Connection.hang, 30.0) for _ in range(4)]
        eventually(lambda: all(call.running() for call in calls))
        started = time.monotonic()
        for closed in [pool.submit(transport.close) for _ in range(4)]:
            closed.result(5)
        for call in calls:
            with pytest.raises(BackendUnavailable, match="pretended is closed: open a new queue") as caught:
                call.result(5)
            assert isinstance(caught.value.__cause__, Closed)
    assert time.monotonic() - started < 3.0
    with pytest.raises(BackendUnavailable, match="pretended is closed"):
        transport.use()
    assert loop_threads() == 0


def test_a_call_during_a_close_succeeds_or_says_at_once_that_the_transport_is_closed() -> None:
    def use_until_closed(transport: PretendedTransport) -> float:
        while True:
            started = time.monotonic()
            try:
                transport.use()
            except BackendUnavailable as error:
                assert isinstance(error.__cause__, Closed)  # noqa: PT017  # any of the threads may get the error first
                return time.monotonic() - started

    with ThreadPoolExecutor(4) as pool:
        for number in range(50):
            transport = PretendedTransport(call_timeout=20.0)
            users = [pool.submit(use_until_closed, transport) for _ in range(4)]
            time.sleep(number / 5_000)  # each round closes at a different moment
            transport.close()
            assert max(user.result(30) for user in users) < 10.0
    assert loop_threads() == 0


def interrupted(thread: threading.Thread, by: type[BaseException]) -> bool:
    """Interrupt a thread as a worker does. Returns True if it has ended; CPython 3.11 may lose an interruption."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(by))
    thread.join(1)
    return not thread.is_alive()


# If `Interrupted` is raised inside a destructor or callback, CPython ignores it, and pytest warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_thread_leaves_the_event_loop_as_it_was(transport: PretendedTransport) -> None:
    class Interrupted(BaseException):
        pass

    for _ in range(100):
        ready, ended = threading.Event(), threading.Event()

        def use(ready: threading.Event = ready, ended: threading.Event = ended) -> None:
            try:
                ready.set()
                while True:
                    transport.use()
            except Interrupted:
                ended.set()

        thread = threading.Thread(target=use)
        thread.start()
        ready.wait(5)
        eventually(partial(interrupted, thread, Interrupted))
        assert ended.is_set()
    assert transport.use() == transport.opened[-1].thread
    transport.close()
    assert transport.opened[-1].closed


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # this test forks one
def test_a_child_after_a_fork_has_a_thread_and_a_connection_of_its_own(transport: PretendedTransport) -> None:
    transport.use()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            transport.use()
            own = len(transport.opened) == 2 and not transport.opened[0].closed
            transport.close()
            code = 0 if own and transport.opened[1].closed and not transport.opened[0].closed else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert transport.use() == transport.opened[0].thread
    transport.close()


def test_the_spi_is_imported_without_asyncio() -> None:
    code = "import sys, queueport.spi.transport; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
