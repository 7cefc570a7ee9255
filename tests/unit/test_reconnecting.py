"""`Reconnecting`: one connection for all coroutines of an event loop, opened again after its loss. For authors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

from queueport.spi.reconnecting import Reconnecting

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own. Fails if it has not ended after ten seconds, even if it blocks its loop."""
    outcome: Future[T] = Future()

    def run_loop() -> None:
        try:
            outcome.set_result(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001  # the test shows it
            outcome.set_exception(error)

    threading.Thread(target=run_loop, daemon=True).start()
    return outcome.result(10.0)


def connections(opener: Callable[[], Coroutine[Any, Any, str]]) -> Reconnecting[str]:
    return Reconnecting(opener, lambda opened: opened != "lost", (OSError,), 1.0)


async def until_open(opened: asyncio.Future[str], ask: Callable[[], Coroutine[Any, Any, str]]) -> tuple[object, object]:
    """What two calls return or raise: one before, and one in the moment in which the connection opens or fails."""
    early = asyncio.ensure_future(ask())
    await asyncio.sleep(0.05)
    opened.set_result("open")  # the attempt takes its last step next, and before its callbacks run, `late` takes a step
    late = asyncio.ensure_future(ask())
    first, second = await asyncio.gather(early, late, return_exceptions=True)
    return first, second


def test_a_call_in_the_moment_in_which_the_connection_opens_gets_it() -> None:
    async def scenario() -> tuple[object, object]:
        opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def opener() -> str:
            return await opened

        return await until_open(opened, connections(opener).get)

    assert run(scenario()) == ("open", "open")


def test_a_call_in_the_moment_in_which_an_attempt_fails_makes_another_attempt() -> None:
    async def scenario() -> tuple[object, object]:
        opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        attempts: list[int] = []

        async def opener() -> str:
            attempts.append(1)
            if len(attempts) == 1:
                await opened
                raise OSError("refused")
            return "second"

        return await until_open(opened, connections(opener).get)

    refused, second = run(scenario())
    assert str(refused) == "refused"
    assert second == "second"


def test_no_attempt_begins_after_stop() -> None:
    async def scenario() -> str | None:
        async def opener() -> str:
            return "open"

        reconnecting = connections(opener)
        assert await reconnecting.get() == "open"
        assert await reconnecting.stop() == "open"
        with pytest.raises(ConnectionAbortedError, match="is being closed"):
            await reconnecting.get()
        return await reconnecting.stop()

    assert run(scenario()) is None
