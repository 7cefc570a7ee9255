"""The pytest plugin, in a pytest of its own that loads it by its entry point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import asyncio

import pytest

from queueport import get_queue, task


@task(name="plugin.add")
def add(a: int) -> int:
    return a + 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_test_has_an_empty_queue(job_queue, number):
    job_queue.assert_nothing_enqueued()
    add.enqueue(number)
    job_queue.assert_enqueued(add, args=(number,), count=1)
    assert job_queue.drain() == 1
    assert job_queue.succeeded[0].result == number + 1


@pytest.mark.job_queue(inline=True, keep_succeeded=5)
def test_options(job_queue):
    assert add.enqueue(1).result() == 2
    assert get_queue().settings.keep_succeeded == 5


def test_coroutines(job_queue):
    async def check():
        handle = await add.aenqueue(1)
        await job_queue.adrain()
        return await handle.result()

    assert asyncio.run(check()) == 2


def test_failure(job_queue):
    add.enqueue(1)
    job_queue.assert_enqueued(add, args=(2,))
"""


def run(folder: Path, *options: str) -> str:
    """Run the tests of the folder in a fresh process; returns what pytest prints."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False).stdout


def test_the_fixture_gives_each_test_a_queue_also_in_parallel(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(TESTS)
    shown = run(tmp_path, "-n2")
    assert "1 failed, 5 passed" in shown
    assert "no job of plugin.add with args=(2,) was enqueued; the nearest has args=(1,)" in shown


def test_a_suite_that_does_not_use_the_fixture_does_not_import_queueport(tmp_path: Path) -> None:
    loaded = "[name for name in sys.modules if name.partition('.')[0] == 'queueport']"
    (tmp_path / "test_app.py").write_text(f"import sys\n\n\ndef test_nothing():\n    assert not {loaded}\n")
    assert "1 passed" in run(tmp_path)
