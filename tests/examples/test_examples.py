"""Each example runs in a new process and prints the output at the end of its docstring.

The swap example and the tests of the sample app also run on every backend. The examples that join an app run on Redis
and on RabbitMQ.
"""

import ast
import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.rabbitmq.tests.broker import Broker
from tests.examples.backends import URLS, environment_of, redis
from tests.servers import rabbitmq_server

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERED = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
SWAP = "04_swap_backend.py"
SHOPS = {"06_join_celery.py": "celery_shop.py", "07_join_dramatiq.py": "dramatiq_shop.py"}
"""The examples that need a broker, and the application that each one joins."""


def output_of(example: str, *arguments: str) -> str:
    """The text that the example prints to standard output. Its log goes to standard error."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr
    return run.stdout


def documented_output(example: str) -> str:
    """The output at the end of the example's docstring, after the last paragraph that ends with a colon."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / example).read_text()))
    assert docstring is not None
    return textwrap.dedent(docstring.rpartition(":\n\n")[2]) + "\n"


def test_there_are_seven_examples() -> None:
    assert [name[:2] for name in NUMBERED] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("example", [name for name in NUMBERED if name not in SHOPS])
def test_an_example_prints_the_output_in_its_docstring(example: str) -> None:
    assert output_of(example) == documented_output(example)


@pytest.fixture
def url(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a backend. The namespace in the environment is removed after the test."""
    with environment_of(backend, tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment["QUEUEPORT_URL"]
        monkeypatch.undo()


@pytest.mark.parametrize("backend", URLS)
def test_the_swap_example_prints_the_same_on_every_backend(url: str) -> None:
    assert output_of(SWAP, url) == documented_output(SWAP)


def own_tests(folder: str) -> str:
    """Run the tests in a folder of examples in a new process. Returns the last line of the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"examples/{folder}"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50, cwd=EXAMPLES.parent)
    assert run.returncode == 0, run.stdout
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize(("folder", "count"), [("sample_app", 5), ("guide", 10)])
def test_the_tests_of_an_example_pass_in_memory(folder: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUEUEPORT_URL", raising=False)
    assert own_tests(folder).startswith(f"{count} passed")


@pytest.mark.parametrize("backend", URLS)
@pytest.mark.usefixtures("url")
def test_the_tests_of_the_sample_app_pass_on_every_backend() -> None:
    assert own_tests("sample_app").startswith("5 passed")


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("example", SHOPS)
def test_an_example_joins_an_existing_app_on_each_broker(
    example: str, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = f"join_{uuid.uuid4().hex[:12]}"
    shop = f"{namespace}_shop"
    server, store = rabbitmq_server() if broker == "rabbitmq" else redis(), redis().url
    monkeypatch.setenv("QUEUEPORT_NAMESPACE", namespace)
    monkeypatch.setenv("QUEUEPORT_STORE", store)
    monkeypatch.setenv("SHOP_BROKER", server.url)
    monkeypatch.setenv("SHOP_RESULTS", store)
    monkeypatch.setenv("SHOP_QUEUE", shop)
    try:
        assert output_of(example) == documented_output(example)
    finally:
        if broker == "rabbitmq":
            with Broker(server.url, namespace).channel() as channel:
                for queue in (shop, f"{namespace}.default", f"{namespace}.{shop}"):
                    for ending in ("", ".DQ", ".XQ"):
                        channel.queue_delete(queue + ending)
                channel.exchange_delete(shop)


@pytest.mark.parametrize("example", SHOPS)
def test_joining_an_app_takes_fewer_than_ten_lines(example: str) -> None:
    before, joining, after = re.split(r"# Joining (?:begins|ends) here.*\n", (EXAMPLES / example).read_text())
    assert len(joining.splitlines()) < 10
    assert "QUEUEPORT_URL" in joining
    assert "QUEUEPORT_URL" not in before + after
    assert "queueport" not in (EXAMPLES / SHOPS[example]).read_text().lower()


@pytest.mark.parametrize("example", [*NUMBERED, *SHOPS.values(), "tasks.py"])
def test_an_example_is_short(example: str) -> None:
    lines = len((EXAMPLES / example).read_text().splitlines())
    assert lines <= (200 if example.startswith("05") else 80)
